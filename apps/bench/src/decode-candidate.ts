// A decode step as something to time.
import type { KVCache } from '@kvloom/core'
import type { Model } from '@kvloom/engine'
import type { Candidate } from './harness'

/** One token into a cache that is filled already, and its logits out; the context grows by one at every run. */
export const decodeCandidate = (name: string, model: Model, cache: KVCache): Candidate => ({
  name,
  async run() {
    const logits = await model.forward(cache, Int32Array.of(42), 'decode')
    await logits?.data()
    logits?.dispose()
  },
})
