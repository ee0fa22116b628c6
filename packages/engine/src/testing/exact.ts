// Help for tests: the compressor that changes nothing.
import type { KVCompressor } from '@kvloom/core'

/** Every row, in f32. */
export const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}
