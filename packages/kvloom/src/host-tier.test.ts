/** A recall's host tier answers as its device tier does, coded or not, whatever stages act beside it, over prompts that follow each other. */
import { shapesOf } from '@kvloom/conformance'
import { compose, type KVCompressor, openCache, type Phase } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, randomNormal, setBackend, type Tensor } from '@tensorflow/tfjs-core'
import { beforeAll, expect, it } from 'vitest'
import {
  blockFormats,
  clusterkv,
  deflate,
  expectedAttention,
  higgs,
  l2Norm,
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
  const cache = openCache(shape, compressor)
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

const smallHiggs = (): KVCompressor => higgs({ group: 16, sinks: 2, block: 4 })
it.each<[string, readonly KVCompressor[]]>([
  ['nothing', []],
  ['think', [think({ window: 4, recent: 4 })]],
  ['snapkv', [snapkv({ keep: 0.4, window: 4 })]],
  ['snapkv and higgs', [snapkv({ keep: 0.4, window: 4 }), smallHiggs()]],
  ['expected attention and higgs', [expectedAttention({ keep: 0.4, sinks: 3, future: 9 }), smallHiggs()]],
  ['l2-norm and block formats', [l2Norm({ keep: 0.4, skipLayers: [] }), blockFormats()]],
  ['streaming-llm and higgs', [streamingLlm({ keep: 0.4 }), smallHiggs()]],
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
