/** Every eviction method beside KIVI passes the conformance suite. */
import { SHAPES, testCompressor } from '@kvloom/conformance'
import { compose, type KVCompressor } from '@kvloom/core'
import { kivi } from '@kvloom/kivi'
import { l2Norm } from '@kvloom/l2-norm'
import { none } from '@kvloom/none'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { tova } from '@kvloom/tova'
import { describe, expect, it } from 'vitest'

const quantizer = () => kivi({ bits: 2, group: 16, residual: 32 })

const EVICTIONS: Readonly<Record<string, () => KVCompressor>> = {
  'l2-norm': () => l2Norm({ keep: 0.4, skipLayers: [0] }),
  'l2-norm at every step': () => l2Norm({ keep: 0.95, skipLayers: [0], pruneAfter: 60, when: 'step' }),
  snapkv: () => snapkv({ keep: 0.6, window: 12 }),
  'streaming-llm': () => streamingLlm({ recent: 70 }),
  'streaming-llm, original positions': () => streamingLlm({ recent: 70, positions: 'original' }),
  'streaming-llm, once': () => streamingLlm({ keep: 0.4 }),
  'tova, fixed cache': () => tova({ cache: 60 }),
  'tova, once': () => tova({ keep: 0.6 }),
}

for (const [name, make] of Object.entries(EVICTIONS)) {
  const suite = { name: `${name} + kivi`, make: () => compose(make(), quantizer()), prompt: 90 }
  testCompressor({ describe, it, expect }, { ...suite, backends: ['wasm'] })
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
