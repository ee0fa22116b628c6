/**
 * The paper's diagnostic of its own premise (section 4, "attention loss"): how much more attention is lost by dropping
 * tokens of high norm first than by dropping the least attended first. Zero where the norm orders tokens as attention does.
 */
import {
  add,
  cumsum,
  gather,
  neg,
  reshape,
  slice,
  sub,
  sum,
  type Tensor,
  tensor2d,
  tidy,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'

/**
 * Sum over m of (attention lost with the m tokens of highest norm) - (with the m least attended), per query head.
 *
 * @param attention `[queryHeads, tokens]`: the newest query's attention; its own token is the last column and is left out.
 * @param norms `[kvHeads, tokens]`: key norms. Query head h reads KV head floor(h · kvHeads / queryHeads).
 * @returns `[queryHeads]`, owned by the caller.
 */
export function attentionLoss(attention: Tensor, norms: Tensor): Tensor {
  return tidy(() => {
    const [queryHeads = 0, tokens = 0] = attention.shape
    const [kvHeads = 1] = norms.shape
    const others = tokens - 1
    if (others < 1) return zeros([queryHeads])
    const mass = slice(attention, [0, 0], [queryHeads, others]) // [queryHeads, others]
    const readHead = Array.from({ length: queryHeads }, (_, h) => Math.floor((h * kvHeads) / queryHeads))
    const norm = gather(slice(norms, [0, 0], [kvHeads, others]), readHead) // [queryHeads, others]

    // Numbers in the flattened mass: gather over batch dimensions is wrong on tfjs's wasm backend (4.22).
    const start = tensor2d(
      Int32Array.from(readHead, (_, h) => h * others),
      [queryHeads, 1],
      'int32',
    )
    const highestNormFirst = gather(reshape(mass, [-1]), add(topk(norm, others).indices, start)) // [queryHeads, others]
    const leastAttendedFirst = neg(topk(neg(mass), others).values)
    return sum(sub(cumsum(highestNormFirst, 1), cumsum(leastAttendedFirst, 1)), 1)
  })
}
