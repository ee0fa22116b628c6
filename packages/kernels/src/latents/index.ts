// Attention to rows of low rank without making them: the query goes into the space of the latents, or what attention to latents gave comes back.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import { throughLatentsName } from './reference'

/** wasm against the reference (double precision), relative to 1 + |reference|: sums of hundreds of f32 products. */
export const latentTolerance = 1e-5

/**
 * Queries as they meet latents: where a key is `latent · up`, its product with a query is that of the latent with `query · upᵀ`.
 * @param queries float32 [queryHeads, n, dim]
 * @param up float32 [latent heads, rank, kvHeads / latent heads · dim]: each latent head makes the rows of adjacent KV heads
 * @param kvHeads divides the query heads; a multiple of the latent heads
 * @returns float32 [queryHeads, n, rank]
 * @throws KernelInputError when shapes or dtypes do not fit
 */
export function queriesToLatents(queries: Tensor, up: Tensor, kvHeads: number): Tensor {
  const where = 'queriesToLatents'
  const [, , dim = 0] = queries.shape
  checkHeads(where, queries, up, kvHeads)
  checkTensor(where, 'up', up, 'float32', ['heads', 'rank', dim * (kvHeads / (up.shape[0] ?? 1))])
  return dispatch(throughLatentsName, { x: queries, up }, { kvHeads, back: false })
}

/**
 * What attention to latents of values gave, as rows of heads.
 * @param outputs float32 [queryHeads, n, rank]
 * @param up float32 [latent heads, rank, kvHeads / latent heads · dim]
 * @param kvHeads divides the query heads; a multiple of the latent heads
 * @returns float32 [queryHeads, n, dim]
 * @throws KernelInputError when shapes or dtypes do not fit
 */
export function latentsToOutputs(outputs: Tensor, up: Tensor, kvHeads: number): Tensor {
  const where = 'latentsToOutputs'
  checkHeads(where, outputs, up, kvHeads)
  const [heads = 1, , width = 0] = up.shape
  checkTensor(where, 'up', up, 'float32', ['heads', outputs.shape[2] ?? 0, width])
  checkInteger(where, 'channels of a KV head', width / (kvHeads / heads), 1)
  return dispatch(throughLatentsName, { x: outputs, up }, { kvHeads, back: true })
}

function checkHeads(where: string, x: Tensor, up: Tensor, kvHeads: number): void {
  checkTensor(where, 'x', x, 'float32', ['queryHeads', 'n', 'channels'])
  checkTensor(where, 'up', up, 'float32', ['heads', 'rank', 'width'])
  checkInteger(where, 'kvHeads', kvHeads, 1)
  const [queryHeads = 0] = x.shape
  const [heads = 0] = up.shape
  if (queryHeads % kvHeads === 0 && heads > 0 && kvHeads % heads === 0) return
  throw new KernelInputError({
    where,
    given: `${queryHeads} query heads, ${kvHeads} KV heads and ${heads} heads of latents`,
    allowed: 'query heads that KV heads divide, and KV heads that heads of latents divide',
    cure: "Check the model's head counts.",
  })
}
