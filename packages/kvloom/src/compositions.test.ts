/** Every eviction method beside KIVI passes the conformance suite; those that drop rows one by one at every step do beside q8_0. */

import { SHAPES, testCompressor } from '@kvloom/conformance'
import { compose, IncompatibleStages, type KVCompressor, type ModelShape, openCache, window } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { blockFormats, kivi, l2Norm, none, snapkv, streamingLlm, tova } from './index'

const quantizer = () => kivi({ bits: 2, group: 16, residual: 32 })

const EVICTIONS: Readonly<Record<string, () => KVCompressor>> = {
  'l2-norm': () => l2Norm({ keep: 0.4, skipLayers: [0] }),
  snapkv: () => snapkv({ keep: 0.6, window: 12 }),
  'streaming-llm': () => streamingLlm({ recent: 70 }),
  'streaming-llm, original positions': () => streamingLlm({ recent: 70, positions: 'original' }),
  'streaming-llm, once': () => streamingLlm({ keep: 0.4 }),
  'tova, once': () => tova({ keep: 0.6 }),
}

/** Survivors of these lie in every block that KIVI seals, so they stand in front of a quantizer whose rows go one by one. */
const AT_EVERY_STEP: Readonly<Record<string, () => KVCompressor>> = {
  'l2-norm at every step': () => l2Norm({ keep: 0.95, skipLayers: [0], pruneAfter: 60, when: 'step' }),
  'tova, fixed cache': () => tova({ cache: 60 }),
}
const beside = (evictions: typeof EVICTIONS, name: string, other: () => KVCompressor) =>
  Object.entries(evictions).map(([eviction, make]) => ({
    name: `${eviction} + ${name}`,
    make: () => compose(make(), other()),
    prompt: 90,
  }))
const q8 = () => window({ keys: { recent: 16, block: 16 }, values: { recent: 16, block: 16 } }, blockFormats())

/** The kernels of cpu are tested to give the numbers of wasm, and take five times as long: one that drops rows once runs there, and one that does at every step. */
const ON_CPU: readonly string[] = ['snapkv + kivi', 'tova, fixed cache + q8_0']

for (const suite of [...beside(EVICTIONS, 'kivi', quantizer), ...beside(AT_EVERY_STEP, 'q8_0', q8)]) {
  testCompressor({ describe, it, expect }, { ...suite, backends: ['wasm'] })
  if (ON_CPU.includes(suite.name))
    testCompressor({ describe, it, expect }, { ...suite, backends: ['cpu'], shapes: SHAPES.slice(0, 1), decode: 40 })
}
testCompressor(
  { describe, it, expect },
  {
    name: 'snapkv + none',
    make: () => compose(snapkv({ keep: 0.4, window: 12 }), none({ store: 'f32' })),
    backends: ['wasm'],
  },
)

it('refuses what drops rows one by one at every step in front of blocks, with what works instead', () => {
  for (const make of Object.values(AT_EVERY_STEP))
    expect(() => openCache(SHAPES[0] as ModelShape, compose(make(), quantizer()))).toThrow(IncompatibleStages)
})
