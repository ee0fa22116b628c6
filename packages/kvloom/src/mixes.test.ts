/** Mixes whose stages meet in ways that no method meets alone, through the conformance suite. */
import { shapesOf, testCompressor } from '@kvloom/conformance'
import { compose, IncompatibleStages, type KVCompressor, openCache, ready, sharedTokens, window } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { setBackend } from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import {
  adaKv,
  aquaKv,
  blockFormats,
  clusterkv,
  expectedAttention,
  fastgen,
  higgs,
  kivi,
  kvsharer,
  kvzip,
  l2Norm,
  linearPredictor,
  lorc,
  minicache,
  snapkv,
  streamingLlm,
  think,
  tova,
} from './index'

const runner = { describe, it, expect }
const [two] = shapesOf(2)
const [four] = shapesOf(4)
if (!two || !four) throw new Error('no shapes')

const recall = (tier: 'device' | 'host'): KVCompressor =>
  clusterkv({ tier, budget: 24, sinks: 4, every: 16, tokensPerCluster: 8, skipLayers: [0] })
const smallHiggs = higgs({ group: 16, sinks: 2, block: 16 })
const smallKivi = kivi({ bits: 4, group: 16, residual: 16 })
const zones = { recent: 0, block: 16, drain: 'blocks' } as const

/** Methods that propose different windows are given one. */
const zoned = (c: KVCompressor): KVCompressor => window({ keys: zones, values: zones }, c)

const mixes: Readonly<Record<string, { make: () => KVCompressor; layers: 2 | 4 }>> = {
  'tova + higgs': { make: () => compose(tova({ cache: 30 }), smallHiggs), layers: 2 },
  'fastgen + higgs': { make: () => compose(fastgen({ minRecovery: 0.7 }), smallHiggs), layers: 2 },
  'snapkv + ada-kv + kivi': { make: () => compose(snapkv({ keep: 0.5, window: 8 }), adaKv(), smallKivi), layers: 2 },
  'kvzip + kivi': { make: () => compose(kvzip({ keep: 0.4 }), smallKivi), layers: 2 },
  'expected attention + ada-kv': {
    make: () => compose(expectedAttention({ keep: 0.4, future: 16 }), adaKv({ safeguard: 0 })),
    layers: 2,
  },
  'think + kivi': {
    make: () => compose(zoned(think({ prune: 0.25, window: 8, recent: 8 })), zoned(smallKivi)),
    layers: 2,
  },
  // Values wait longer than keys here, so that keys are read from the middle of a group on.
  'lorc + kivi': { make: () => compose(lorc({ rank: 32 }), kivi({ bits: 4, group: 8, residual: 16 })), layers: 2 },
  'kvsharer + minicache': { make: () => compose(kvsharer({ share: 1 }), minicache({ block: 16 })), layers: 4 },
  'lorc + aqua-kv': {
    make: () => compose(zoned(lorc({ rank: 32 })), zoned(aquaKv({ group: 16, sinks: 2, block: 16 }))),
    layers: 2,
  },
  'clusterkv over aqua-kv': {
    make: () => compose(recall('device'), aquaKv({ group: 16, sinks: 2, block: 16 })),
    layers: 2,
  },
  'clusterkv + minicache': { make: () => compose(recall('device'), minicache({ start: 0, block: 8 })), layers: 4 },
  'clusterkv from host memory over higgs': { make: () => compose(recall('host'), smallHiggs), layers: 2 },
  'minicache + kivi': {
    make: () => compose(zoned(minicache({ start: 0, block: 16 })), zoned(smallKivi)),
    layers: 4,
  },
  'one set of tokens for the model + aqua-kv': {
    make: () =>
      compose(sharedTokens('model', snapkv({ keep: 0.5, window: 8 })), aquaKv({ group: 16, sinks: 2, block: 16 })),
    layers: 4,
  },
  'one set of tokens for the model + minicache': {
    make: () =>
      compose(sharedTokens('model', expectedAttention({ keep: 0.5, future: 16 })), minicache({ start: 0, block: 8 })),
    layers: 4,
  },
  'one set of tokens for the model + lorc + higgs': {
    make: () => compose(sharedTokens('model', l2Norm({ keep: 0.5 })), zoned(lorc({ rank: 32 })), zoned(smallHiggs)),
    layers: 2,
  },
  'one set of tokens for the model at every step + think': {
    make: () => compose(sharedTokens('model', tova({ keep: 0.6 })), think({ prune: 0.25, window: 8, recent: 8 })),
    layers: 2,
  },
  'one budget over the model + higgs': {
    make: () => compose(snapkv({ keep: 0.4, window: 8 }), adaKv({ over: 'model' }), smallHiggs),
    layers: 4,
  },
  'streaming-llm over half + aqua-kv': {
    make: () => compose(streamingLlm({ keep: 0.5 }), aquaKv({ group: 16, sinks: 4, block: 16 })),
    layers: 4,
  },
  'streaming-llm over half + linear-predictor + block-formats': {
    make: () =>
      compose(
        streamingLlm({ keep: 0.5, sinks: 2 }),
        zoned(linearPredictor({ keepReconstruction: true })),
        zoned(blockFormats()),
      ),
    layers: 4,
  },
  'kvsharer + one set of tokens for the model + kivi': {
    make: () =>
      compose(kvsharer({ map: [0, 1, 1, 3] }), sharedTokens('model', snapkv({ keep: 0.5, window: 8 })), smallKivi),
    layers: 4,
  },
  'kvsharer + tova + kivi': {
    make: () => compose(kvsharer({ map: [0, 1, 1, 3] }), tova({ keep: 0.6 }), smallKivi),
    layers: 4,
  },
}
for (const [name, { make, layers }] of Object.entries(mixes))
  testCompressor(runner, { name, make, shapes: [layers === 2 ? two : four], backends: ['wasm'], layers })

it('refuses a host tier over rows that are sealed together', async () => {
  await registerKernels('wasm')
  await setBackend('wasm')
  for (const [model, over] of [
    [two, smallKivi],
    [four, minicache({ start: 0, block: 8 })],
  ] as const)
    expect(() => openCache(model, ready(compose(recall('host'), over)))).toThrow(IncompatibleStages)
})
