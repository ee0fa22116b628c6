/** Cases of KVSharer: distances of averaged layers, and the search with a fixed list of similarities in the model's place. */

import type { HostTensor } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  type GoldenCase,
  GoldenError,
  type NdArray,
  numberOption,
  type Outcome,
  type TensorResult,
  wrong,
} from '@kvloom/golden'
import { layerDistances, rankPairs, searchSharing } from '../src/search'

/** KVSharer against its authors' data. */
export const adapter: CaseAdapter = { method: 'kvsharer', run }

async function run(golden: GoldenCase): Promise<Outcome> {
  const results = await (golden.has('pairs') ? searchResults(golden) : distanceResults(golden))
  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    const actual = results[name]
    const [expected, tolerance] = [await golden.expected(name), golden.tolerance(name)]
    tensors.push(actual ? compareArrays(name, actual, expected, tolerance) : wrong(name, 'no result for this name'))
  }
  return { tensors }
}

type Results = Readonly<Record<string, NdArray>>

async function distanceResults(golden: GoldenCase): Promise<Results> {
  const [keys, values] = [layersOf(await golden.input('avgKeys')), layersOf(await golden.input('avgValues'))]
  const distances = layerDistances(keys, values)
  const pairs = rankPairs(distances, 'descending', 0)
  return {
    distance: { shape: [keys.length, keys.length], data: Float32Array.from(distances.flat()) },
    pairsDescending: {
      shape: [pairs.length, 2],
      data: Int32Array.from(pairs.flatMap(({ later, earlier }) => [later, earlier])),
    },
  }
}

/** `[layers, kvHeads, tokens, dim]` as one tensor per layer. */
function layersOf({ shape, data }: NdArray): HostTensor[] {
  const [layers = 0, ...rest] = shape
  const size = data.length / layers
  return Array.from({ length: layers }, (_, layer) => ({
    shape: rest,
    values: Float32Array.from(data.subarray(layer * size, (layer + 1) * size)),
  }))
}

async function searchResults(golden: GoldenCase): Promise<Results> {
  const [pairs, similarities] = [await golden.input('pairs'), await golden.input('similarities')]
  const layers = numberOption(golden, 'layers')
  let asked = 0
  const { map, trials } = await searchSharing(
    Array.from({ length: pairs.shape[0] ?? 0 }, (_, i) => ({
      later: pairs.data[2 * i] ?? -1,
      earlier: pairs.data[2 * i + 1] ?? -1,
    })),
    { layers, share: numberOption(golden, 'shareLayers'), threshold: numberOption(golden, 'threshold') },
    async () => {
      const similarity = similarities.data[asked++]
      if (similarity === undefined) throw new GoldenError(`Trial ${asked} of ${golden.name} has no similarity.`)
      return similarity
    },
  )
  const { trials: expected } = golden.scalars
  if (typeof expected === 'number' && asked !== expected)
    throw new GoldenError(`${asked} maps were tried, ${expected} expected.`)
  return {
    map: { shape: [layers], data: Int32Array.from(map) },
    triedMaps: { shape: [trials.length, layers], data: Int32Array.from(trials.flatMap((trial) => trial.map)) },
  }
}
