import { shapesOf, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  type Artifact,
  ArtifactMismatch,
  type Asked,
  type CalibrationRun,
  type HostTensor,
  type KVCompressor,
  type Learned,
  ModelMismatch,
  NOTHING_ASKED,
  NotCalibrated,
  OptionError,
  ready,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { kvsharer } from './kvsharer'
import { averageRows, rankPairs, searchSharing } from './search'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
const small = { shapes: shapesOf(4).slice(0, 2), backends: ['wasm'] } as const
testCompressor(runner, {
  name: 'kvsharer, a map given',
  make: () => kvsharer({ map: [0, 0, 2, 0] }),
  identity: () => window({ store: 'f32' }, kvsharer({ map: [0, 1, 2, 3] })),
  ...small,
})
testCompressor(runner, { name: 'kvsharer, searched', make: () => kvsharer({ share: 2 }), ...small, decode: 20 })

const LAYERS = 6
const model = { ...syntheticModel({ queryHeads: 2, kvHeads: 1, keyDim: 4, valueDim: 4 }), layers: LAYERS }

const host = (values: readonly number[], shape: readonly number[]): HostTensor => ({
  shape,
  values: Float32Array.from(values),
})

/** The map that a compressor reads by. */
function mapOf(compressor: KVCompressor, artifact?: Artifact): number[] {
  const [stage] = stagesOn(compressor, 'model', 0)
  const bound = stage?.bind(siteOf(model, 0, 'keys'), artifact)
  return Array.from({ length: LAYERS }, (_, layer) => bound?.sourceLayer?.(layer) ?? -1)
}

/**
 * Layers of which layer i stands at i² in every channel, in a model whose last hidden states turn away by `turn` degrees for
 * every layer that shares.
 */
function runOf(turn: number): CalibrationRun & { readonly candidates: number[][] } {
  const candidates: number[][] = []
  const rows = (layer: number) => host([1, 2, 3, 4].fill(layer ** 2), [1, 1, 4])
  return {
    candidates,
    model,
    weights: {
      shape: model,
      names: () => [],
      get: () => Promise.reject(new Error('not asked for')),
    },
    rows: () => Promise.reject(new Error('not asked for')),
    gradients: () => Promise.reject(new Error('not asked for')),
    sentences: async () =>
      Array.from({ length: LAYERS }, (_, layer) => ({
        keys: [rows(layer), rows(layer)],
        values: [rows(layer), rows(layer)],
      })),
    hidden: async (candidate) => {
      const map = candidate ? mapOf(candidate) : []
      if (candidate) candidates.push(map)
      const angle = (map.filter((source, layer) => source !== layer).length * turn * Math.PI) / 180
      return [host([Math.cos(angle), Math.sin(angle)], [1, 2])]
    },
  }
}

async function fitted(options: Parameters<typeof kvsharer>[0], run: CalibrationRun): Promise<Learned> {
  const [stage] = stagesOn(kvsharer(options), 'model', 0)
  if (stage?.fit?.scope !== 'model') throw new Error('kvsharer is fitted on the whole model')
  return stage.fit.run(run, NOTHING_ASKED)
}
const artifactOf = ({ json, tensors }: Learned): Artifact => ({
  stage: 'kvsharer',
  fingerprint: '',
  json: { 'model.both': json },
  tensors,
})

describe('kvsharer', () => {
  it('reads by a given map, without calibration', () => {
    const map = [0, 1, 2, 0, 4, 2]
    expect(mapOf(kvsharer({ map }))).toEqual(map)
    expect(() => ready(kvsharer({ map }))).not.toThrow()
    expect(() => ready(kvsharer())).toThrow(NotCalibrated)
  })

  it('searches from the most different pair on, and says what it tried', async () => {
    const run = runOf(10)
    const learned = await fitted({ share: 3 }, run)
    // Distances 25 (5, 0), 24 (5, 1), 21 (5, 2), 16 (4, 0) and (5, 3), ... : layers 5, 4 and 3 read layer 0.
    expect(run.candidates).toEqual([
      [0, 1, 2, 3, 4, 0],
      [0, 1, 2, 3, 0, 0],
      [0, 1, 2, 0, 0, 0],
    ])
    expect(learned.json).toMatchObject({ map: [0, 1, 2, 0, 0, 0], asked: 3, shared: 3 })
    expect(learned.json).toHaveProperty('trials.1.similarity', expect.closeTo(Math.cos(Math.PI / 9), 6))
    expect(mapOf(kvsharer({ share: 3 }), artifactOf(learned))).toEqual([0, 1, 2, 0, 0, 0])
    expect(JSON.parse(JSON.stringify(learned.json))).toEqual(learned.json)
  })

  it('shares less when the threshold says so', async () => {
    const run = runOf(35) // cos 35°, 70°, 105°: two layers reach more than 0.3
    const learned = await fitted({ share: 5, threshold: 0.3 }, run)
    expect(learned.json).toMatchObject({ asked: 5, shared: 2, map: [0, 1, 2, 3, 0, 0] })
    const all = (LAYERS * (LAYERS - 1)) / 2
    // Once layers 5 and 4 share, their other 4 and 3 pairs are not tried.
    expect(run.candidates.length).toBe(all - 4 - 3)
  })

  it('lets layers keep their rows that another stage joins, and says before the search how many are left', async () => {
    const joined: Asked = { ...NOTHING_ASKED, layers: [0, 3, 4, 5] }
    const run = runOf(10)
    const [stage] = stagesOn(kvsharer({ share: 2 }), 'model', 0)
    if (stage?.fit?.scope !== 'model') throw new Error('kvsharer is fitted on the whole model')
    // Of the rest, distances are 4 (2, 0) and 1 (1, 0), (2, 1).
    expect((await stage.fit.run(run, joined)).json).toMatchObject({ map: [0, 0, 0, 3, 4, 5], shared: 2 })
    const foresee = (options: Parameters<typeof kvsharer>[0], asked = joined) => {
      const [one] = stagesOn(kvsharer(options), 'model', 0)
      return () => one?.fit?.foresee?.(siteOf(run.model, 0, 'keys'), asked)
    }
    expect(foresee({ share: 2 })).not.toThrow()
    expect(foresee({ share: 3 })).toThrow(
      /3 layers cannot read earlier ones of a model that has 6, of which another stage joins the layers 3, 4, 5 with others\. Share at most 2/,
    )
    expect(foresee({ share: 6 }, NOTHING_ASKED)).toThrow(/a model that has 6\. Share at most 5\.$/)
  })

  it('is nothing when no layer is to share', async () => {
    const run = runOf(10)
    expect((await fitted({ share: 0 }, run)).json).toMatchObject({ map: [0, 1, 2, 3, 4, 5], shared: 0, trials: [] })
    expect(run.candidates).toEqual([])
  })

  it('tries pairs in the asked order', async () => {
    const distances = [[], [3], [1, 2], [6, 5, 4]]
    const names = (order: 'descending' | 'ascending' | 'random', seed = 0) =>
      rankPairs(distances, order, seed).map(({ later, earlier }) => `${later}${earlier}`)
    expect(names('descending')).toEqual(['30', '31', '32', '10', '21', '20'])
    expect(names('ascending')).toEqual(['20', '21', '10', '32', '31', '30'])
    expect([...names('random', 1)].sort()).toEqual([...names('ascending')].sort())
    expect(names('random', 1)).toEqual(names('random', 1))
    expect(names('random', 1)).not.toEqual(names('random', 2))
  })

  it('averages over sentences as the notebook does', () => {
    const sentences = [host([1, 2], [1, 1, 2]), host([3, 4], [1, 1, 2]), host([9, 9, 9, 9], [1, 2, 2])]
    const { shape, values } = averageRows(sentences)
    expect(shape).toEqual([1, 1, 2])
    expect([...values]).toEqual([4, 6].map((sum) => Math.fround(sum / 3)))
  })

  it('ends every chain at a layer that keeps its rows, whatever is accepted', async () => {
    const layers = 8
    const pair = fc
      .tuple(fc.integer({ min: 1, max: layers - 1 }), fc.nat())
      .map(([later, n]) => ({ later, earlier: n % later }))
    await fc.assert(
      fc.asyncProperty(
        fc.array(pair, { maxLength: 40 }),
        fc.integer({ min: 0, max: layers - 1 }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 40, maxLength: 40 }),
        async (pairs, share, similarities) => {
          let asked = 0
          const { map, trials } = await searchSharing(
            pairs,
            { layers, share, threshold: 0.5 },
            async () => similarities[asked++] ?? 0,
          )
          for (const { map: tried } of [{ map }, ...trials])
            tried.forEach((source, layer) => {
              expect(source).toBeLessThanOrEqual(layer)
              expect(tried[source]).toBe(source)
            })
          const shared = map.filter((source, layer) => source !== layer).length
          expect(shared).toBeLessThanOrEqual(share)
          expect(trials.filter(({ accepted }) => accepted).length).toBe(shared)
          expect(trials.length).toBe(asked)
        },
      ),
    )
  })

  it('refuses what does not fit', async () => {
    expect(() => kvsharer({ share: -1 })).toThrow(OptionError)
    expect(() => kvsharer({ map: [0, 2, 2] })).toThrow(OptionError)
    expect(() => kvsharer({ map: [0, 0, 1] })).toThrow(/followed to its end the map is \[0, 0, 0\]/)
    expect(() => mapOf(kvsharer({ map: [0, 0] }))).toThrow(ModelMismatch)
    await expect(fitted({ share: LAYERS }, runOf(10))).rejects.toThrow(ModelMismatch)
    expect(() => mapOf(kvsharer())).toThrow(ArtifactMismatch)
    const chain: Learned = { json: { map: [0, 0, 1, 3, 4, 5] }, tensors: {} }
    expect(() => mapOf(kvsharer(), artifactOf(chain))).toThrow(ArtifactMismatch)
  })
})
