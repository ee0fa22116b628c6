/**
 * Cases of KV-Latent. The activations of a case play the projections of a model of one layer, `[heads · dim, tokens]`: cutting rows of
 * a projection and cutting what it puts out is the same. What comes back is rotated and attended to as the new shape says.
 */

import { type KVCompressor, type ModelShape, type ModelWeights, siteOf, stagesOn } from '@kvloom/core'
import {
  type Arena,
  type CaseAdapter,
  compareArrays,
  fromTensor,
  type GoldenCase,
  GoldenError,
  makeWith,
  type NdArray,
  numberOption,
  type Outcome,
  type TensorResult,
  textOption,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { pagedAttention, rope as rotate } from '@kvloom/kernels'
import { type Tensor, tensor1d, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { kvLatent } from '../src/kv-latent'

/** Logit scales are printed as float64 numbers. */
const SCALE_ERROR = 1e-12

/** KV-Latent against its authors' data. */
export const adapter: CaseAdapter = { method: 'kv-latent', run }

async function run(golden: GoldenCase): Promise<Outcome> {
  const frequencies = textOption(golden, 'rope', '')
  if (golden.expects.every((name) => FREQUENCIES.test(name) && name !== 'invFreq'))
    return {
      tensors: await compareTables(golden, (dim) => makeWith(kvLatent, { keyDim: dim, valueDim: dim, frequencies })),
    }
  const [keyDim, valueDim] = [narrowed(golden, 'QK'), narrowed(golden, 'VO')]
  const compressor = makeWith(kvLatent, { keyDim, valueDim, frequencies })
  return withArena(async (arena) => {
    const small = transformed(compressor, await activationsOf(golden))
    const results = await resultsOf(small, arena)
    const channels = await channelsOf(transformed(compressor, channelNumbers(modelOf(golden))))
    const tensors: TensorResult[] = []
    for (const name of golden.expects) {
      const actual = { ...results, ...channels }[name]
      const [expected, tolerance] = [await golden.expected(name), golden.tolerance(name)]
      tensors.push(actual ? compareArrays(name, actual, expected, tolerance) : wrong(name, 'no result for this name'))
    }
    tensors.push(compareArrays('output columns', channels.outputColumns, channels.keptVOChannels, {}))
    return { tensors: [...tensors, ...compareSizes(golden, small.shape)] }
  })
}

const FREQUENCIES = /^invFreq(\d*)$/

/** Channels that are kept: given as such, or as a divisor. */
function narrowed(golden: GoldenCase, which: 'QK' | 'VO'): number {
  if (golden.options[`headDim${which}`] !== undefined) return numberOption(golden, `headDim${which}`)
  return numberOption(golden, 'headDim') / numberOption(golden, `ratio${which}`)
}

/** Tables without rows: `invFreq48` is of a head of 48 channels. */
async function compareTables(golden: GoldenCase, create: (dim: number) => KVCompressor): Promise<TensorResult[]> {
  const base = numberOption(golden, 'ropeTheta')
  return Promise.all(
    golden.expects.map(async (name) => {
      const dim = Number(FREQUENCIES.exec(name)?.[1])
      const model = oneLayer({ queryHeads: 1, kvHeads: 1, dim, base })
      const { shape } = transformed(create(dim), channelNumbers(model))
      return compareArrays(name, frequenciesOf(shape), await golden.expected(name), golden.tolerance(name))
    }),
  )
}

const modelOf = (golden: GoldenCase): ModelShape =>
  oneLayer({
    queryHeads: numberOption(golden, 'queryHeads'),
    kvHeads: numberOption(golden, 'kvHeads'),
    dim: numberOption(golden, 'headDim'),
    base: numberOption(golden, 'ropeTheta'),
  })

const oneLayer = (o: { queryHeads: number; kvHeads: number; dim: number; base: number }): ModelShape => ({
  name: 'golden',
  layers: 1,
  queryHeads: o.queryHeads,
  kvHeads: o.kvHeads,
  keyDim: o.dim,
  valueDim: o.dim,
  contextLength: Number.MAX_SAFE_INTEGER,
  rope: {
    dim: o.dim,
    frequencies: Float64Array.from({ length: o.dim / 2 }, (_, j) => o.base ** ((-2 * j) / o.dim)),
    attentionFactor: 1,
  },
  attentionScale: 1 / Math.sqrt(o.dim),
  fingerprint: 'golden',
})

/** What the compressor makes of a model. */
function transformed(compressor: KVCompressor, weights: ModelWeights): ModelWeights {
  const [stage] = stagesOn(compressor, 'model', 0)
  const small = stage?.bind(siteOf(weights.shape, 0, 'keys')).transform?.(weights)
  if (!small) throw new GoldenError(`${compressor.card.name} transforms no weights.`)
  return small
}

/** A model whose projections are these matrices. */
const weightsOf = (shape: ModelShape, matrices: Readonly<Record<string, () => Tensor>>): ModelWeights => ({
  shape,
  names: () => Object.keys(matrices),
  async get(name) {
    const make = matrices[name]
    if (!make) throw new GoldenError(`The model of a golden case has no weight ${name}.`)
    return make()
  },
})

const QUERY = 'layers.0.attention.query'
const KEY = 'layers.0.attention.key'
const VALUE = 'layers.0.attention.value'
const OUTPUT = 'layers.0.attention.output'

async function activationsOf(golden: GoldenCase): Promise<ModelWeights> {
  const [q, k, v] = await Promise.all(['q', 'k', 'v'].map((name) => golden.input(name)))
  if (!q || !k || !v) throw new GoldenError(`Case ${golden.name} gives no q, k and v.`)
  return weightsOf(modelOf(golden), {
    [QUERY]: () => toTensor(asProjection(q)),
    [KEY]: () => toTensor(asProjection(k)),
    [VALUE]: () => toTensor(asProjection(v)),
  })
}

/** Every weight holds the number of its channel within the head. */
function channelNumbers(shape: ModelShape): ModelWeights {
  const numbers = (heads: number, dim: number) => Float32Array.from({ length: heads * dim }, (_, i) => i % dim)
  const rows = (heads: number, dim: number) => () => tensor2d(numbers(heads, dim), [heads * dim, 1])
  const { queryHeads, kvHeads, keyDim, valueDim } = shape
  return weightsOf(shape, {
    [QUERY]: rows(queryHeads, keyDim),
    [KEY]: rows(kvHeads, keyDim),
    [VALUE]: rows(kvHeads, valueDim),
    [OUTPUT]: () => tensor2d(numbers(queryHeads, valueDim), [1, queryHeads * valueDim]),
  })
}

/** Kept channels, which every head must have alike. */
async function channelsOf(weights: ModelWeights) {
  const { queryHeads, kvHeads, keyDim, valueDim } = weights.shape
  const of = async (name: string, heads: number, dim: number): Promise<NdArray> => {
    const weight = await weights.get(name)
    const { data } = await fromTensor(weight)
    weight.dispose()
    const first = data.slice(0, dim)
    if (data.length !== heads * dim || data.some((channel, i) => channel !== first[i % dim]))
      throw new GoldenError(`The heads of ${name} keep different channels.`)
    return { shape: [dim], data: Int32Array.from(first) }
  }
  const queries = await of(QUERY, queryHeads, keyDim)
  const keptQKChannels = await of(KEY, kvHeads, keyDim)
  if (queries.data.some((channel, i) => channel !== keptQKChannels.data[i]))
    throw new GoldenError('Queries and keys keep different channels.')
  return {
    keptQKChannels,
    keptPairs: { shape: [keyDim / 2], data: keptQKChannels.data.slice(0, keyDim / 2) },
    keptVOChannels: await of(VALUE, kvHeads, valueDim),
    outputColumns: await of(OUTPUT, queryHeads, valueDim),
  }
}

/** Rows of the small model: cut, rotated, attended to. */
async function resultsOf(weights: ModelWeights, arena: Arena): Promise<Readonly<Record<string, NdArray>>> {
  const { shape } = weights
  const rowsOf = async (name: string, heads: number): Promise<Tensor> => {
    const weight = await weights.get(name)
    const projected = await fromTensor(weight)
    weight.dispose()
    return arena.own(toTensor(asRows(projected, heads)))
  }
  const values = await rowsOf(VALUE, shape.kvHeads)
  const keys = arena.own(rotated(await rowsOf(KEY, shape.kvHeads), shape))
  const queries = arena.own(rotated(await rowsOf(QUERY, shape.queryHeads), shape))
  const rows = keys.shape[1] ?? 0
  const exact = { layout: { kind: 'dense', store: 'f32' }, from: 0, rows } as const
  const { output } = pagedAttention({
    queries: [queries],
    keys: [{ ...exact, tensors: [keys] }],
    values: [{ ...exact, tensors: [values] }],
    kvHeads: shape.kvHeads,
    keyDim: shape.keyDim,
    valueDim: shape.valueDim,
    scale: shape.attentionScale,
    causal: true,
  })
  return {
    invFreq: frequenciesOf(shape),
    qRotated: await fromTensor(queries),
    kRotated: await fromTensor(keys),
    vKept: await fromTensor(values),
    attentionOutput: await fromTensor(arena.own(output)),
  }
}

/** Rows `[heads, tokens, dim]` at positions 0, 1, ... */
function rotated(rows: Tensor, { rope }: ModelShape): Tensor {
  if (!rope) throw new GoldenError('The model of a golden case rotates.')
  const tokens = rows.shape[1] ?? 0
  const table = (of: (angle: number) => number) =>
    tensor2d(
      Float32Array.from({ length: (tokens * rope.dim) / 2 }, (_, i) => {
        const [position, pair] = [Math.floor(i / (rope.dim / 2)), i % (rope.dim / 2)]
        return of(position * (rope.frequencies[pair] ?? 0)) * rope.attentionFactor
      }),
      [tokens, rope.dim / 2],
    )
  return tidy(() =>
    rotate(
      rows,
      { cos: table(Math.cos), sin: table(Math.sin) },
      tensor1d(
        Int32Array.from({ length: tokens }, (_, i) => i),
        'int32',
      ),
    ),
  )
}

const frequenciesOf = ({ rope }: ModelShape): NdArray => ({
  shape: [rope?.frequencies.length ?? 0],
  data: Float32Array.from(rope?.frequencies ?? []),
})

/** `[heads, tokens, dim]` to `[heads · dim, tokens]`. */
function asProjection({ shape, data }: NdArray): NdArray {
  const [heads = 0, tokens = 0, dim = 0] = shape
  const rows = Float32Array.from(data, (_, at) => {
    const [row, token] = [Math.floor(at / tokens), at % tokens]
    return data[(Math.floor(row / dim) * tokens + token) * dim + (row % dim)] ?? Number.NaN
  })
  return { shape: [heads * dim, tokens], data: rows }
}

/** `[heads · dim, tokens]` to `[heads, tokens, dim]`. */
function asRows({ shape, data }: NdArray, heads: number): NdArray {
  const [rows = 0, tokens = 0] = shape
  const dim = rows / heads
  const values = Float32Array.from(data, (_, at) => {
    const [head, token, channel] = [Math.floor(at / (tokens * dim)), Math.floor(at / dim) % tokens, at % dim]
    return data[(head * dim + channel) * tokens + token] ?? Number.NaN
  })
  return { shape: [heads, tokens, dim], data: values }
}

/** Scale and sizes that the case states in numbers. */
function compareSizes(golden: GoldenCase, shape: ModelShape): TensorResult[] {
  const { kvHeads, keyDim, valueDim, attentionScale } = shape
  const stated: readonly (readonly [string, unknown, number, number])[] = [
    ['logitScale', golden.options['logitScale'], attentionScale, SCALE_ERROR],
    ['headDimQK', golden.scalars['headDimQK'], keyDim, 0],
    ['headDimVO', golden.scalars['headDimVO'], valueDim, 0],
    ['cachedNumbers', golden.scalars['cachedNumbersPerTokenAndLayer'], kvHeads * (keyDim + valueDim), 0],
  ]
  return stated.flatMap(([name, expected, actual, tolerance]) => {
    if (typeof expected !== 'number') return []
    const error = Math.abs(actual - expected)
    return [{ name, error, tolerance, where: `${actual}, expected ${expected}`, passed: error <= tolerance }]
  })
}
