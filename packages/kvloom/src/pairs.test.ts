/** Every pair of methods that can be composed takes prompts after prompts, as its fork and its restored copy do; the others are refused by name. */
import { shapesOf, testSettings } from '@kvloom/conformance'
import { compose, defineMethod, evenWindows, type KVCompressor, KvloomError, window } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import {
  adaKv,
  blockFormats,
  clusterkv,
  compressKvHeads,
  coupledQuantization,
  decoquant,
  expectedAttention,
  fastgen,
  freqkv,
  higgs,
  kivi,
  kvcrush,
  kvquant,
  kvsharer,
  kvzip,
  l2Norm,
  linearPredictor,
  lorc,
  minicache,
  recalkv,
  snapkv,
  streamingLlm,
  think,
  tova,
} from './index'

/** Small, so that windows fill, blocks are sealed and rows are dropped within a few prompts. */
const METHODS: Readonly<Record<string, () => KVCompressor>> = {
  'ada-kv': () => adaKv(),
  'block-formats': () => blockFormats(),
  clusterkv: () => clusterkv({ budget: 24, tokensPerCluster: 8, sinks: 2, every: 8, skipLayers: [] }),
  'compress-kv-heads': () => compressKvHeads({ rank: 32 }),
  'coupled-quantization': () =>
    coupledQuantization({ channels: 2, bits: 3, sensitivity: 'none', sinks: 2, recent: 4, restarts: 1, iterations: 4 }),
  decoquant: () => decoquant({ block: 16 }),
  'expected-attention': () => expectedAttention({ keep: 0.4, sinks: 3, future: 16 }),
  fastgen: () => fastgen({ minRecovery: 0.7, globalTokens: 2 }),
  freqkv: () => freqkv({ window: 40, sinks: 2 }),
  higgs: () => higgs({ group: 16, sinks: 2, block: 16 }),
  kivi: () => kivi({ group: 16, residual: 16 }),
  kvcrush: () => kvcrush({ share: 0.5, page: 2, sinks: 2, recent: 4 }),
  kvquant: () => kvquant({ sensitivity: 'none' }),
  kvsharer: () => kvsharer({ map: [0, 0] }),
  kvzip: () => kvzip({ keep: 0.4, over: 'head' }),
  'l2-norm': () => l2Norm({ keep: 0.5, skipLayers: [] }),
  'linear-predictor': () => linearPredictor(),
  lorc: () => lorc({ rank: 24 }),
  minicache: () => minicache({ start: 0, block: 16 }),
  recalkv: () => recalkv({ block: 16 }),
  snapkv: () => snapkv({ keep: 0.4, window: 8 }),
  'streaming-llm': () => streamingLlm({ sinks: 2, recent: 24 }),
  think: () => think({ prune: 0.25, window: 8, recent: 8 }),
  tova: () => tova({ cache: 24 }),
}
const names = Object.keys(METHODS)

/** A mix as it is, or with one window for all where methods propose different ones; null where it is refused. */
function mixOf(pair: readonly string[]): (() => KVCompressor) | null {
  const parts = () => pair.map((name) => METHODS[name]?.() ?? adaKv())
  const zoned = () => compose(...parts().map((part) => window(evenWindows({ sinks: 2, block: 16 }), part)))
  for (const make of [() => compose(...parts()), zoned])
    try {
      make()
      return make
    } catch (error) {
      if (!(error instanceof KvloomError)) throw error
    }
  return null
}

const pairs = names.flatMap((a, i) => names.slice(i + 1).map((b) => [a, b]))
const mixes = pairs.flatMap((pair) => {
  const make = mixOf(pair)
  return make ? [{ name: pair.join(' + '), make }] : []
})

it('composes enough of the pairs', () => {
  expect(mixes.length).toBeGreaterThan(60)
})

for (const [i, { name, make }] of mixes.entries())
  testSettings(
    { describe, it, expect },
    {
      name,
      // One compressor with nothing to draw: what is drawn are the prompts.
      methods: [defineMethod(make().card, {}, make)],
      samples: 1,
      seed: i + 1,
      shapes: shapesOf(2).slice(0, 1),
      mayBeRefused: true,
    },
  )
