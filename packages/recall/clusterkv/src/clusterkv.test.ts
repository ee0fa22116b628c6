import { syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  compose,
  defineScorer,
  foldSpace,
  IncompatibleStages,
  type KVCompressor,
  OptionError,
  openCache,
  ready,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, memory, mul, norm, randomNormal, setBackend, slice, type Tensor } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { clusterKeys } from './cluster-keys'
import { clusterkv } from './clusterkv'
import { clustersNeeded, hitRate, rankClusters, selectRows } from './select-clusters'

type Options = NonNullable<Parameters<typeof clusterkv>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
// A small budget and small blocks: selections are checked against plain attention over what they name.
for (const tier of ['device', 'host'] as const)
  testCompressor(runner, {
    name: `clusterkv, ${tier} tier`,
    make: () => clusterkv({ tier, budget: 24, sinks: 4, every: 16, skipLayers: [0], tokensPerCluster: 8 }),
    identity: () => window({ store: 'f32' }, clusterkv({ tier, budget: 4096, every: 16, skipLayers: [] })),
    ...(tier === 'host' ? { backends: ['wasm'] as const } : {}),
  })

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8 })

/** Seeded rows `[heads, n, dim]`. */
const rows = (heads: number, n: number, dim: number, seed: number): Tensor =>
  randomNormal([heads, n, dim], 0, 1, 'float32', seed)

function recall(options: Options, layer = 2) {
  const [stage] = stagesOn(clusterkv(options), 'recall', layer)
  if (!stage) throw new Error(`no recall on layer ${layer}`)
  return stage.bind(siteOf(model, layer, 'keys'))
}

const list = async (tensor: Tensor): Promise<number[]> => [...(await tensor.data())]

describe('clusterkv', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('puts every token into one cluster, and the centroid in the middle of its keys', async () => {
    const keys = rows(2, 50, 8, 1)
    const { centroids, sizes, members } = await clusterKeys(keys, Int32Array.from([0, 10, 20, 30]), 20)
    const [counts, ids, means, values] = [
      await list(sizes),
      await list(members),
      await list(centroids),
      await list(keys),
    ]
    for (let head = 0; head < 2; head++) {
      const own = ids.slice(head * 50, (head + 1) * 50)
      expect([...own].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i))
      let at = 0
      for (let c = 0; c < 4; c++) {
        const size = counts[head * 4 + c] ?? 0
        const mean = own.slice(at, at + size).reduce((sum, id) => sum + (values[(head * 50 + id) * 8] ?? 0) / size, 0)
        expect(means[(head * 4 + c) * 8]).toBeCloseTo(mean, 5)
        at += size
      }
      expect(at).toBe(50)
    }
    dispose([keys, centroids, sizes, members])
  })

  it('stops when no label changes, as more rounds would not change any', async () => {
    const keys = rows(1, 60, 8, 2)
    const first = Int32Array.from([1, 2, 3, 4, 5])
    const [some, more] = [await clusterKeys(keys, first, 60), await clusterKeys(keys, first, 500)]
    expect(await list(more.members)).toEqual(await list(some.members))
    expect(await list(more.centroids)).toEqual(await list(some.centroids))
    dispose([keys, ...Object.values(some), ...Object.values(more)])
  })

  it('keeps the centroid of an empty cluster, which may fill again', async () => {
    const [same, keys] = [fill([1, 20, 8], 0.5), rows(1, 20, 8, 3)]
    const alike = await clusterKeys(same, Int32Array.from([7, 7]), 20)
    expect(await list(alike.sizes)).toEqual([20, 0])
    expect(await list(alike.centroids)).toEqual(new Array(16).fill(0.5))
    const again = await clusterKeys(keys, Int32Array.from([7, 7]), 20)
    for (const size of await list(again.sizes)) expect(size).toBeGreaterThan(0)
    dispose([same, keys, ...Object.values(alike), ...Object.values(again)])
  })

  it('reads the best tokens when each is a cluster, the first ones when there is one cluster, whole clusters between', async () => {
    const [keys, queries] = [rows(1, 30, 8, 4), randomNormal([2, 8], 0, 1, 'float32', 5) as Tensor]
    const single = await clusterKeys(
      keys,
      Int32Array.from({ length: 30 }, (_, i) => i),
      0,
    )
    const ranking = await rankClusters(queries, [single])
    const best = await selectRows(ranking, [single], 7)
    const top = (head: number) => [...ranking.order.subarray(head * 30, head * 30 + 7)].sort((a, b) => a - b)
    expect(await list(best)).toEqual([...top(0), ...top(1)])
    const one = await clusterKeys(keys, Int32Array.from([3]), 5)
    const prefix = await selectRows(await rankClusters(queries, [one]), [one], 4)
    expect(await list(prefix)).toEqual([0, 1, 2, 3, 0, 1, 2, 3])
    const few = await clusterKeys(keys, Int32Array.from([0, 9, 18, 27]), 20)
    const ranked = await rankClusters(queries, [few])
    const [sizes, members] = [await list(few.sizes), await list(few.members)]
    const favourite = ranked.order[0] ?? 0
    const before = sizes.slice(0, favourite).reduce((a, b) => a + b, 0)
    const whole = await selectRows(ranked, [few], sizes[favourite] ?? 0)
    expect((await list(whole)).slice(0, sizes[favourite])).toEqual(
      members.slice(before, before + (sizes[favourite] ?? 0)),
    )
    dispose([keys, queries, best, prefix, whole])
    for (const index of [single, one, few]) dispose(Object.values(index))
  })

  it('reads the same for a query of any length', async () => {
    const { index, select } = recall({ budget: 24, sinks: 0, clusters: 6 })
    const keys = rows(2, 40, 8, 6)
    const block = await index(keys, { number: 0, phase: 'promptEnd' })
    const queries = randomNormal([4, 8], 0, 1, 'float32', 7) as Tensor
    const louder = mul(queries, 8)
    const [one, other] = [await select(queries, [block], [40], 24), await select(louder, [block], [40], 24)]
    expect(await list(other)).toEqual(await list(one))
    dispose([keys, queries, louder, one, other, ...Object.values(block)])
  })

  it('numbers rows through all blocks, and reads all of them when the count is all', async () => {
    const { index, select } = recall({ sinks: 0, clusters: 3, clustersPerBlock: 2 })
    const [prompt, later] = [rows(2, 20, 8, 8), rows(2, 10, 8, 9)]
    const blocks = [
      await index(prompt, { number: 0, phase: 'promptEnd' }),
      await index(later, { number: 1, phase: 'decode' }),
    ]
    expect(blocks.map(({ centroids }) => centroids?.shape[1])).toEqual([3, 2])
    const queries = randomNormal([4, 8], 0, 1, 'float32', 10) as Tensor
    const all = await select(queries, blocks, [20, 10], 30)
    const everything = Array.from({ length: 30 }, (_, i) => i)
    expect(await list(all)).toEqual([...everything, ...everything, ...everything, ...everything])
    const some = await select(queries, blocks, [20, 10], 12)
    expect((await list(some)).some((row) => row >= 20)).toBe(true)
    dispose([prompt, later, queries, all, some])
    for (const block of blocks) dispose(Object.values(block))
  })

  it('draws the same first keys for the same seed, others for another layer, block or seed', async () => {
    const keys = rows(2, 64, 8, 11)
    const draw = async (options: Options, layer: number, number: number) => {
      const bound = recall({ iterations: 0, clusters: 4, sinks: 0, ...options }, layer)
      const { centroids, sizes, members } = await bound.index(keys, { number, phase: 'promptEnd' })
      const drawn = JSON.stringify(await list(centroids as Tensor))
      dispose([centroids, sizes, members] as Tensor[])
      return drawn
    }
    const one = await draw({ seed: 3 }, 2, 0)
    expect(await draw({ seed: 3 }, 2, 0)).toBe(one)
    for (const other of [await draw({ seed: 4 }, 2, 0), await draw({ seed: 3 }, 3, 0), await draw({ seed: 3 }, 2, 1)])
      expect(other).not.toBe(one)
    const even = recall({ start: 'even', iterations: 0, clusters: 4, sinks: 0 })
    const block = await even.index(keys, { number: 0, phase: 'promptEnd' })
    const sixteenth = slice(keys, [0, 16, 0], [1, 1, 8])
    expect((await list(block['centroids'] as Tensor)).slice(8, 16)).toEqual(await list(sixteenth))
    dispose([keys, sixteenth, ...Object.values(block)])
  })

  it('says how many clusters cover a budget, and how many were there before', async () => {
    const keys = rows(1, 12, 8, 12)
    const index = await clusterKeys(
      keys,
      Int32Array.from({ length: 12 }, (_, i) => i),
      0,
    )
    const queries = randomNormal([1, 8], 0, 1, 'float32', 13) as Tensor
    const ranking = await rankClusters(queries, [index])
    expect(await clustersNeeded(ranking, [index], 5)).toEqual([5])
    expect(hitRate([[1, 2, 3, 4]], [[[4, 5]]])).toBe(0.25)
    expect(
      hitRate(
        [
          [1, 2],
          [3, 4],
        ],
        [
          [
            [1, 2],
            [9, 9],
          ],
          [
            [7, 8],
            [4, 9],
          ],
        ],
      ),
    ).toBe(0.75)
    dispose([keys, queries, ...Object.values(index)])
  })

  it('reads only what it selects: the same from the host, and exactly everything within the budget', async () => {
    const layer = { ...model, layers: 1 }
    const outputs = async (compressor: KVCompressor): Promise<number[]> => {
      const cache = openCache(layer, ready(window({ store: 'f32' }, compressor)))
      const last: number[] = []
      for (const [from, n] of [[0, 60], ...Array.from({ length: 30 }, (_, i) => [60 + i, 1])] as const) {
        cache.begin(new Int32Array(n), from === 0 ? 'promptEnd' : 'decode')
        const now = {
          queries: rows(4, n, 8, 100 + from),
          keys: rows(2, n, 8, 200 + from),
          values: rows(2, n, 8, 300 + from),
        }
        const output = await cache.attend(0, now)
        if (n === 1) last.push(...(await output.data()))
        await cache.commit()
        dispose([output, ...Object.values(now)])
      }
      cache.dispose()
      return last
    }
    const held = memory().numBytes
    const settings = { sinks: 4, every: 8, clusters: 6, skipLayers: [] }
    const exact = await outputs(clusterkv({ ...settings, skipLayers: [0] }))
    const far = (a: readonly number[], b: readonly number[]) => Math.max(...a.map((x, i) => Math.abs(x - (b[i] ?? 0))))
    expect(far(await outputs(clusterkv({ ...settings, budget: 1000 })), exact)).toBe(0)
    const device = await outputs(clusterkv({ ...settings, budget: 24 }))
    expect(far(device, exact)).toBeGreaterThan(1e-3)
    // The same rows in another order of memory: sums of f32 products.
    expect(far(await outputs(clusterkv({ ...settings, budget: 24, tier: 'host' })), device)).toBeLessThan(1e-5)
    expect(memory().numBytes).toBe(held)
  })

  it('leaves the first layers alone', () => {
    expect(stagesOn(clusterkv(), 'recall', 1)).toEqual([])
    expect(stagesOn(clusterkv(), 'recall', 2)).toHaveLength(1)
  })

  it('refuses tokens that go away later, and options out of range', () => {
    const score = ({ keys }: { readonly keys: Tensor }) => norm(keys, 2, 2)
    const evicting = (when: 'step' | 'promptEnd') =>
      defineScorer({ name: 'norms', when, needs: { keys: { of: 'keys' } }, score })()
    expect(() => compose(evicting('step'), clusterkv())).toThrow(IncompatibleStages)
    const mixed = compose(evicting('promptEnd'), clusterkv())
    expect(foldSpace(mixed.stages, 'keys').tokenSets).toBe('head')
    const far = { ...foldSpace([], 'keys'), randomAccess: false }
    const [device, host] = [clusterkv().stages[0], clusterkv({ tier: 'host' }).stages[0]]
    expect(device?.accepts(far, 'chain')).toEqual(far)
    expect(() => host?.accepts(far, 'chain')).toThrow(IncompatibleStages)
    expect(() => clusterkv({ budget: 0 })).toThrow(OptionError)
    expect(() => clusterkv({ seed: 0.5 })).toThrow(OptionError)
  })
})
