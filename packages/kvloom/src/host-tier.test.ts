/** A recall's host tier answers as its device tier does, coded or not, whatever stages act beside it, over prompts that follow each other. */
import { shapesOf, syntheticRun } from '@kvloom/conformance'
import {
  calibrate,
  compose,
  type KVCompressor,
  needsCalibration,
  openCache,
  type Phase,
  ready,
  window,
} from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, randomNormal, setBackend, type Tensor } from '@tensorflow/tfjs-core'
import { beforeAll, expect, it } from 'vitest'
import {
  blockFormats,
  clusterkv,
  decoquant,
  deflate,
  expectedAttention,
  higgs,
  l2Norm,
  lorc,
  snapkv,
  streamingLlm,
  think,
} from './index'

/** The tiers sum the same numbers in another order. */
const TOLERANCE = 2e-4

const [model] = shapesOf(2)
if (!model) throw new Error('no shape')

const recall = (tier: 'device' | 'host'): KVCompressor =>
  clusterkv({ tier, budget: 8, sinks: 2, every: 5, tokensPerCluster: 4, skipLayers: [] })
const decode = (n: number): readonly [number, Phase][] => Array.from({ length: n }, () => [1, 'decode'])
const steps: readonly [number, Phase][] = [
  [40, 'promptEnd'],
  ...decode(12),
  [20, 'promptEnd'],
  ...decode(12),
  [1, 'promptEnd'],
  ...decode(12),
]

/** What attention gives at every step and layer, and how many bytes lay in host memory at the end. */
async function run(compressor: KVCompressor): Promise<{ outputs: Float32Array[]; host: number }> {
  const shape = model as NonNullable<typeof model>
  const before = memory().numTensors
  const fitted = needsCalibration(compressor) ? await calibrate(compressor, syntheticRun(shape)) : ready(compressor)
  const cache = openCache(shape, fitted)
  const outputs: Float32Array[] = []
  const rows = (seed: number, heads: number, n: number, dim: number): Tensor =>
    randomNormal([heads, n, dim], 0, 1, 'float32', seed)
  for (const [i, [n, phase]] of steps.entries()) {
    cache.begin(new Int32Array(n), phase)
    for (let layer = 0; layer < shape.layers; layer++) {
      const seed = 10 * (i * shape.layers + layer)
      const now = {
        queries: rows(seed + 1, shape.queryHeads, n, shape.keyDim),
        keys: rows(seed + 2, shape.kvHeads, n, shape.keyDim),
        values: rows(seed + 3, shape.kvHeads, n, shape.valueDim),
      }
      const output = await cache.attend(layer, now)
      outputs.push(((await output.data()) as Float32Array).slice())
      dispose([output, ...Object.values(now)])
    }
    await cache.commit()
  }
  const { host } = cache.bytes()
  cache.dispose()
  expect(memory().numTensors).toBe(before)
  return { outputs, host }
}

beforeAll(async () => {
  await registerKernels('wasm')
  await setBackend('wasm')
})

const single = { recent: 0, block: 1, drain: 'all' } as const
const smallHiggs = (): KVCompressor => higgs({ group: 16, sinks: 2, block: 4 })
it.each<[string, readonly KVCompressor[]]>([
  ['nothing', []],
  ['think', [think({ window: 4, recent: 4 })]],
  ['snapkv', [snapkv({ keep: 0.4, window: 4 })]],
  ['snapkv and higgs', [snapkv({ keep: 0.4, window: 4 }), smallHiggs()]],
  ['expected attention and higgs', [expectedAttention({ keep: 0.4, sinks: 3, future: 9 }), smallHiggs()]],
  ['l2-norm and block formats', [l2Norm({ keep: 0.4, skipLayers: [] }), blockFormats()]],
  ['streaming-llm and higgs', [streamingLlm({ keep: 0.4 }), smallHiggs()]],
  // One stored row is that of all heads, which select different ones.
  ['higgs over all heads', [higgs({ group: 64, sinks: 2, block: 4 })]],
  ['decoquant of single tokens', [decoquant({ bits: 8, block: 1 })]],
  ['lorc', [window({ keys: single, values: single }, lorc({ rank: 32 }))]],
  ['snapkv and think', [snapkv({ keep: 0.4, window: 4 }), think({ window: 4, recent: 4 })]],
])('beside %s', async (_, others) => {
  const [device, host] = [
    await run(compose(recall('device'), ...others)),
    await run(compose(recall('host'), ...others)),
  ]
  const coded = await run(compose(recall('host'), ...others, deflate()))
  expect(host.host).toBeGreaterThan(0)
  // Codes lose nothing, and take another number of bytes.
  expect(coded.outputs).toEqual(host.outputs)
  expect(coded.host).toBeGreaterThan(0)
  expect(coded.host).not.toBe(host.host)
  let furthest = 0
  for (const [i, values] of device.outputs.entries())
    for (const [j, v] of values.entries()) {
      const difference = Math.abs(v - (host.outputs[i]?.[j] ?? Number.NaN))
      furthest = Math.max(difference, furthest)
    }
  expect(furthest).toBeLessThan(TOLERANCE)
})

it.each(['device', 'host'] as const)(
  'selects on the %s where a step reads its own rows as they are stored',
  async (tier) => {
    const all = await run(lorc({ rank: 32 }))
    const selected = await run(compose(recall(tier), lorc({ rank: 32 })))
    const differ = all.outputs.filter((values, i) => values.some((v, j) => v !== selected.outputs[i]?.[j]))
    // Every decoded token reads a selection, in both layers: 36 of them, and the prompt of one token.
    expect(differ.length).toBeGreaterThanOrEqual(2 * 36)
    expect(all.outputs[0]).toEqual(selected.outputs[0])
  },
)
