// Attention of a whole sequence to itself, and the compressor that leaves everything as it is.
import { type KVCompressor, type ModelShape, openCache, type Ready, ready } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'

const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** Every row, in f32. */
export const exactRows = (): Ready => ready(exact)

/**
 * Queries, keys and values of one layer, before RoPE, at positions 0 … n - 1: through a cache of that one layer, as in generation.
 * @returns `[queryHeads, n, valueDim]`, the caller's
 */
export async function attendToItself(
  shape: ModelShape,
  now: { readonly queries: Tensor; readonly keys: Tensor; readonly values: Tensor },
): Promise<Tensor> {
  const cache = openCache({ ...shape, layers: 1 }, exactRows())
  try {
    cache.begin(new Int32Array(now.queries.shape[1] ?? 0), 'promptEnd')
    const attended = await cache.attend(0, now)
    await cache.commit()
    return attended
  } finally {
    cache.dispose()
  }
}
