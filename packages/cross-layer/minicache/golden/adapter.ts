/** Cases of MiniCache: one pair of layers merged whole, what is stored of it, and both layers restored from that. */

import { type KVCompressor, type ModelShape, siteOf, stagesOn, upload } from '@kvloom/core'
import {
  type CaseAdapter,
  compareNamed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  textOption,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { add, mul, reshape, sub, type Tensor, tidy, zeros } from '@tensorflow/tfjs-core'
import { angleBetween, minicache } from '../src/minicache'

const RETENTION = ['topRatioPerHead', 'cosineBand', 'minAngleBand'] as const
type Retention = (typeof RETENTION)[number]
const isRetention = (text: string): text is Retention => RETENTION.some((each) => each === text)

/** MiniCache against its port in KVCache-Factory. */
export const adapter: CaseAdapter = { method: 'minicache', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  const retention = textOption(golden, 'retention', '')
  if (!isRetention(retention)) return null
  const [a, b] = [await golden.input('a'), await golden.input('b')]
  const model = modelOf({ queries: a, keys: a, values: a }, 2)
  const compressor = minicache({
    t: numberOption(golden, 't'),
    retention,
    gamma: numberOption(golden, 'gamma'),
    start: 0,
    block: a.shape[1] ?? 0,
  })
  const results: Record<string, NdArray | undefined> = await encoded(compressor, model, a, b)
  results['angleOverPi'] = await withArena(async (arena) => {
    const angle = arena.own(angleBetween(arena.own(toTensor(a)), arena.own(toTensor(b))))
    const { shape, data } = await fromTensor(angle)
    return { shape, data: Float32Array.from(data, (radians) => radians / Math.PI) }
  })
  const direction = results['direction']
  const skip = direction ? { direction: skipped(golden, direction) } : {}
  return { tensors: await compareNamed(golden, results, skip) }
}

/** What the stage stores of the pair, and both layers restored by its decoder. */
async function encoded(compressor: KVCompressor, model: ModelShape, a: NdArray, b: NdArray) {
  const [stage] = stagesOn(compressor, 'transform', 1, 'keys')
  if (!stage) throw new GoldenError(`${compressor.card.name} does not transform keys.`)
  return withArena(async (arena) => {
    const site = siteOf(model, 1, 'keys', (table) => arena.own(upload(table)))
    const transform = stage.bind(site)
    if (transform.layers?.join() !== '0,1') throw new GoldenError('The stage does not merge the two layers of a case.')
    const members = [arena.own(toTensor(a)), arena.own(toTensor(b))]
    const [heads = 0, tokens = 0] = a.shape
    const made = tidy(() => {
      const { main, scale, exempt = zeros([heads, tokens]) } = transform.encode(members, {})
      const restored = members.map((exact, member) => {
        const { up, bias } = transform.decoder({}, member)
        if (up || bias) throw new GoldenError('The stage decodes by more than a scale, which this adapter does not do.')
        const row = (x: Tensor) => reshape(x, [heads, tokens, 1])
        const merged = scale?.[member] ? mul(main, row(scale[member])) : main
        return add(mul(row(exempt), exact), mul(row(sub(1, exempt)), merged))
      })
      return { main, scale: [...(scale ?? [])], exempt, restored }
    })
    const read = async (x: Tensor | undefined) => (x ? fromTensor(arena.own(x)) : undefined)
    return {
      direction: await read(made.main),
      normA: await read(made.scale[0]),
      normB: await read(made.scale[1]),
      restoredA: await read(made.restored[0]),
      restoredB: await read(made.restored[1]),
      ...retainedOf(await fromTensor(arena.own(made.exempt))),
    }
  })
}

/** The retained rows of a mask `[heads, tokens]` in the forms that cases expect. */
function retainedOf({ shape, data }: NdArray): Record<string, NdArray | undefined> {
  const [heads = 0, tokens = 0] = shape
  const rows = Array.from({ length: heads }, (_, head) => [...data.subarray(head * tokens, (head + 1) * tokens)])
  const indices = rows.map((row) => row.flatMap((mark, token) => (mark === 1 ? [token] : [])))
  const kept = indices[0]?.length ?? 0
  return {
    retainedMask: { shape, data: Uint8Array.from(data) },
    // Only a rule that keeps as many rows of each head, or the same rows of all, can be listed so.
    retainedIndices: indices.every((head) => head.length === kept)
      ? { shape: [heads, kept], data: Int32Array.from(indices.flat()) }
      : undefined,
    retainedTokens: rows.every((row) => row.join() === rows[0]?.join())
      ? { shape: [tokens], data: Uint8Array.from(rows[0] ?? []) }
      : undefined,
  }
}

/** Rows `[head, token]` of `scalars.skipDirection`, whose direction is ill-conditioned. */
function skipped(golden: GoldenCase, { shape }: NdArray): NdArray {
  const [heads = 0, tokens = 0, dim = 0] = shape
  const data = new Uint8Array(heads * tokens * dim)
  const pairs = (golden.scalars['skipDirection'] ?? []) as readonly (readonly [number, number])[]
  for (const [head, token] of pairs) data.fill(1, (head * tokens + token) * dim, (head * tokens + token + 1) * dim)
  return { shape, data }
}
