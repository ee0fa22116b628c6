/** Cases made by the authors' code: how alike heads are, groups of them, keys and values through their factors, and ranks. */
import { type CalibrationRun, calibrate, type HostTensor, openCache, type Part, type Ready, window } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  compareNamed,
  feed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  textOption,
  withArena,
} from '@kvloom/golden'
import { mergeHeads } from '@kvloom/kernels'
import { type Matrix, matrix, multiply, transpose } from '@kvloom/math'
import { groupHeads, slotsOf } from '../src/grouping'
import { fisherRanks } from '../src/ranks'
import { recalkv } from '../src/recalkv'
import { headSimilarity } from '../src/similarity'
import { calibrated, covarianceOf, type Maps, principalMaps } from '../src/values'

/** ReCalKV against the authors' code. */
export const adapter: CaseAdapter = { method: 'recalkv', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  switch (textOption(golden, 'part', '')) {
    case 'keys':
      return keys(golden)
    case 'grouping': {
      const groups = groupHeads(toMatrix(await golden.input('cka')), numberOption(golden, 'groupSize'))
      return { tensors: await compareNamed(golden, inArrays(groups)) }
    }
    case 'values':
      return values(golden)
    case 'ranks':
      return ranks(golden)
    default:
      return null
  }
}

/** Groups `[groups, size]`, and the slot of every head. */
function inArrays(groups: readonly (readonly number[])[]): Record<string, NdArray> {
  const slots = slotsOf(groups)
  return {
    groups: { shape: [groups.length, groups[0]?.length ?? 0], data: Int32Array.from(groups.flat()) },
    permutation: { shape: [slots.length], data: slots },
  }
}

/**
 * The method fitted on the whitened weights as if they were keys: they have the covariance of the keys of X, and it is from them that the
 * authors' code takes its similarities.
 */
async function keys(golden: GoldenCase): Promise<Outcome> {
  const weight = toMatrix(await golden.input('W'))
  const heads = numberOption(golden, 'heads')
  const whitened = transpose(multiply(weight, toMatrix(await golden.input('S')))) // [in, heads · dim]
  const size = numberOption(golden, 'groupSize')
  const keep = numberOption(golden, 'rankPerGroup') / ((size * weight.rows) / heads)
  const compressor = recalkv({ keep, headsPerGroup: size, allocation: 'uniform', block: 1, iterations: 0 })
  const fitted = await calibrate(window({ store: 'f32' }, compressor), runOf(split(whitened, heads), null))
  const learned = fitted.artifacts[0]?.json as { 'model.both'?: { groups?: number[][][] } } | undefined
  const groups = learned?.['model.both']?.groups?.[0]
  if (!groups) throw new GoldenError('recalkv no longer reports its groups.')
  const rows = multiply(toMatrix(await golden.input('X')), transpose(weight))
  const tokens = (await golden.expected('reconstructed')).shape[0] ?? 0
  return {
    tensors: await compareNamed(golden, {
      ...inArrays(groups),
      cka: toArray(headSimilarity(whitened, heads)),
      reconstructed: await byCache(fitted, split(firstRows(rows, tokens), heads), 'keys'),
    }),
  }
}

/** By the maps alone, and by the method and a real cache, with the rows of `whitenX` as those of the uncompressed model. */
async function values(golden: GoldenCase): Promise<Outcome> {
  const weight = transpose(toMatrix(await golden.input('W')))
  const outputs = multiply(toMatrix(await golden.input('X')), weight)
  const dense = multiply(toMatrix(await golden.input('whitenX')), weight)
  const [rank, iterations] = [numberOption(golden, 'rank'), numberOption(golden, 'iterations')]
  const first = principalMaps(covarianceOf(dense), rank)
  let maps = first
  for (let round = 0; round < iterations; round++) maps = calibrated(maps, covarianceOf(outputs))
  const expected = await golden.expected('reconstructed')
  const some = firstRows(outputs, expected.shape[0] ?? 0)
  const through = ({ down, up }: Maps) => toArray(multiply(multiply(some, transpose(down)), transpose(up)))
  const heads = 3
  const compressor = recalkv({
    keep: rank / outputs.columns,
    headsPerGroup: heads,
    allocation: 'uniform',
    block: 1,
    iterations,
  })
  const fitted = await calibrate(
    window({ store: 'f32' }, compressor),
    runOf(split(dense, heads), split(outputs, heads)),
  )
  const cached = await byCache(fitted, split(some, heads), 'values')
  return {
    tensors: [
      compareArrays('reconstructed (cache)', cached, expected, golden.tolerance('reconstructed')),
      ...(await compareNamed(golden, { reconstructed: through(maps), initialReconstructed: through(first) })),
    ],
  }
}

async function ranks(golden: GoldenCase): Promise<Outcome> {
  const [keys, values] = [await golden.input('fisherK'), await golden.input('fisherV')]
  const heads = numberOption(golden, 'kvHeads')
  const width = heads * numberOption(golden, 'headDim')
  const groups = heads / numberOption(golden, 'groupSize')
  const { raw, ranks } = fisherRanks(
    { keys: keys.data, values: values.data },
    {
      keep: numberOption(golden, 'target'),
      width: { keys: width, values: width },
      groups,
      block: numberOption(golden, 'blockSize'),
    },
  )
  const perGroup = (x: Int32Array): NdArray => ({
    shape: [x.length, groups],
    data: Int32Array.from({ length: x.length * groups }, (_, at) => x[Math.floor(at / groups)] ?? 0),
  })
  return {
    tensors: await compareNamed(golden, {
      rankKRaw: perGroup(raw.keys),
      rankVRaw: perGroup(raw.values),
      rankK: perGroup(ranks.keys),
      rankV: perGroup(ranks.values),
    }),
  }
}

const modelOfRows = (rows: NdArray) => modelOf({ queries: rows, keys: rows, values: rows })

/** A model of one layer with these keys and values, and what it has when layers before it are compressed. */
function runOf(rows: NdArray, shifted: NdArray | null): CalibrationRun {
  const both = ({ shape, data }: NdArray) => {
    const host: HostTensor = { shape, values: Float32Array.from(data) }
    return { keys: [host], values: [host] }
  }
  const refuse = async (): Promise<never> => {
    throw new GoldenError('Golden data of ReCalKV gives rows only.')
  }
  const model = modelOfRows(rows)
  return {
    model,
    weights: { shape: model, names: () => [], get: refuse },
    rows: async () => both(rows),
    ...(shifted ? { shifted: async () => both(shifted) } : {}),
    gradients: refuse,
    hidden: refuse,
    sentences: refuse,
  }
}

/** What a real cache materialises of rows `[heads, tokens, dim]`, heads side by side. */
async function byCache(fitted: Ready, rows: NdArray, part: Part): Promise<NdArray> {
  const cache = openCache(modelOfRows(rows), fitted)
  try {
    await feed(cache, { queries: rows, keys: rows, values: rows }, 0, rows.shape[1] ?? 0, 'promptEnd')
    return await withArena(async (arena) => {
      const { keys, values } = await cache.materialize(0)
      arena.own(keys)
      arena.own(values)
      return fromTensor(arena.own(mergeHeads(part === 'keys' ? keys : values)))
    })
  } finally {
    cache.dispose()
  }
}

function toMatrix({ shape, data }: NdArray): Matrix {
  const [rows = 0, columns = 0] = shape
  if (shape.length !== 2)
    throw new GoldenError(`Golden data of ReCalKV is of matrices, not of shape [${shape.join(', ')}].`)
  return matrix(rows, columns, data)
}
const toArray = ({ rows, columns, data }: Matrix): NdArray => ({
  shape: [rows, columns],
  data: Float32Array.from(data),
})
const firstRows = (m: Matrix, count: number): Matrix => matrix(count, m.columns, m.data.subarray(0, count * m.columns))

/** `[tokens, heads · dim]` as `[heads, tokens, dim]`. */
function split({ rows: tokens, columns, data }: Matrix, heads: number): NdArray {
  const dim = columns / heads
  const perHead = new Float32Array(data.length)
  for (let head = 0; head < heads; head++)
    for (let token = 0; token < tokens; token++)
      for (let c = 0; c < dim; c++)
        perHead[(head * tokens + token) * dim + c] = data[token * columns + head * dim + c] ?? 0
  return { shape: [heads, tokens, dim], data: perHead }
}
