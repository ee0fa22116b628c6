/** Cases made by the formulas of the LoRC paper: truncated SVDs of a weight, and layer ranks from condition numbers. */

import {
  type CalibrationRun,
  calibrate,
  type HostTensor,
  type ModelShape,
  openCache,
  type Ready,
  siteOf,
  stagesOn,
  upload,
  window,
} from '@kvloom/core'
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
  numbersOption,
  type Outcome,
  type TensorResult,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { mergeHeads } from '@kvloom/kernels'
import { add, matMul, reshape, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { lorc } from '../src/lorc'
import { progressiveRanks } from '../src/ranks'

/** Relative errors are of a float32 reconstruction: a few roundings of its norm. */
const RELATIVE_ERROR = { abs: 2e-5, rel: 1e-4 }
/** Ranks this close to a half may round to either side: condition numbers are stored as float32. */
const HALF = 1e-3

/** LoRC against the formulas of its paper. */
export const adapter: CaseAdapter = { method: 'lorc', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (golden.has('W')) return truncations(golden)
  if (golden.has('logKappaK')) return layerRanks(golden)
  return null
}

/** The method fitted on a model of one layer with this weight, at every rank of the case. */
async function truncations(golden: GoldenCase): Promise<Outcome | null> {
  const whiten = golden.options['whiten'] ?? false
  if (typeof whiten !== 'boolean') return null
  const [weight, x] = [await golden.input('W'), await golden.input('x')]
  const rows = applied(weight, x)
  const results: Record<string, NdArray> = {}
  const tensors: TensorResult[] = []
  for (const rank of numbersOption(golden, 'ranks')) {
    const compressor = lorc({ rank, allocation: 'uniform', parts: 'keys', basis: whiten ? 'outputs' : 'weights' })
    const fitted = await calibrate(window({ store: 'f32' }, compressor), runOf(weight, rows))
    const all = fitted.artifacts[0]?.tensors['0.keys.singularValues']
    if (!all || all.values instanceof Int32Array) throw new GoldenError('lorc no longer reports singular values.')
    results['singularValues'] = { shape: all.shape, data: all.values }
    const name = `reconstructed${rank}`
    const reconstructed = await byStage(fitted, rows)
    results[name] = reconstructed
    if (golden.expects.includes(name))
      tensors.push(
        compareArrays(
          `${name} (cache)`,
          await byCache(fitted, rows),
          await golden.expected(name),
          golden.tolerance(name),
        ),
      )
    const expected = golden.scalars[`relativeError${rank}`]
    if (typeof expected === 'number') {
      const error = (x: number): NdArray => ({ shape: [1], data: Float32Array.of(x) })
      tensors.push(
        compareArrays(
          `relativeError${rank}`,
          error(relativeError(reconstructed, rows)),
          error(expected),
          RELATIVE_ERROR,
        ),
      )
    }
  }
  tensors.push(...(await compareNamed(golden, results)))
  return { tensors }
}

/** Rows `[tokens, width]` through the latents of a stage and back. */
async function byStage({ compressor, artifacts }: Ready, rows: NdArray): Promise<NdArray> {
  const perHead = splitByHead(rows)
  const [stage] = stagesOn(compressor, 'transform', 0, 'keys')
  if (!stage) throw new GoldenError('lorc no longer transforms keys.')
  return withArena(async (arena) => {
    const hold = (table: HostTensor): Tensor => arena.own(upload(table))
    const transform = stage.bind(siteOf(modelOfRows(perHead), 0, 'keys', hold), artifacts[0])
    const back = tidy(() => {
      const { main } = transform.encode([toTensor(perHead)], {})
      const { up, bias } = transform.decoder({}, 0)
      if (!up) throw new GoldenError('lorc no longer decodes by a map.')
      const merged = matMul(main, up) // [1, tokens, width]
      return reshape(bias ? add(merged, reshape(bias, [1, 1, -1])) : merged, [...rows.shape])
    })
    return fromTensor(arena.own(back))
  })
}

/** The same by a real cache: rows are a prompt's keys, and what it materialises is compared. */
async function byCache(fitted: Ready, rows: NdArray): Promise<NdArray> {
  const perHead = splitByHead(rows)
  const tokens = rows.shape[0] ?? 0
  const cache = openCache(modelOfRows(perHead), fitted)
  try {
    await feed(cache, { queries: perHead, keys: perHead, values: perHead }, 0, tokens, 'promptEnd')
    return await withArena(async (arena) => {
      const { keys, values } = await cache.materialize(0)
      arena.own(values)
      return fromTensor(arena.own(mergeHeads(arena.own(keys))))
    })
  } finally {
    cache.dispose()
  }
}

/** The ranks of every layer of a model with these condition numbers. */
async function layerRanks(golden: GoldenCase): Promise<Outcome | null> {
  const [keys, values] = [await golden.input('logKappaK'), await golden.input('logKappaV')]
  const layers = numberOption(golden, 'layers', keys.data.length)
  if (layers !== keys.data.length || layers !== values.data.length)
    throw new GoldenError(`Case ${golden.name} has ${layers} layers and ${keys.data.length} condition numbers.`)
  const range = { max: numberOption(golden, 'dMax'), min: numberOption(golden, 'dMin') }
  const { logCumulative, real, ranks } = progressiveRanks({ keys: keys.data, values: values.data }, range)
  const results: Record<string, NdArray> = {
    logCumulative: { shape: [layers], data: Float32Array.from(logCumulative) },
    rankReal: { shape: [layers], data: Float32Array.from(real) },
    rank: { shape: [layers], data: ranks },
  }
  const tensors = await compareNamed(golden, results)
  if (golden.expects.includes('rank')) {
    const nearHalf = Uint8Array.from(real, (rank) => (Math.abs(rank - Math.floor(rank) - 0.5) <= HALF ? 1 : 0))
    const except = { shape: [layers], data: nearHalf }
    const exact: NdArray = { shape: [layers], data: ranks }
    tensors.push(compareArrays('rank (away from halves)', exact, await golden.expected('rank'), {}, { except }))
  }
  return { tensors }
}

/** A model of one layer whose key and value projections are `weight` `[out, in]`, and what it gives for the inputs of the case. */
function runOf(weight: NdArray, rows: NdArray): CalibrationRun {
  const perHead = splitByHead(rows)
  const model = modelOfRows(perHead)
  const host: HostTensor = { shape: perHead.shape, values: Float32Array.from(perHead.data) }
  const refuse = (): never => {
    throw new GoldenError('Golden data of LoRC gives weights and rows only.')
  }
  return {
    model,
    weights: {
      shape: model,
      names: () => ['layers.0.attention.key', 'layers.0.attention.value'],
      get: async (name) => (/^layers\.0\.attention\.(key|value)$/.test(name) ? toTensor(weight) : refuse()),
    },
    rows: async () => ({ keys: [host], values: [host] }),
    gradients: async () => refuse(),
    hidden: async () => refuse(),
    sentences: async () => refuse(),
  }
}

const modelOfRows = (rows: NdArray): ModelShape => modelOf({ queries: rows, keys: rows, values: rows })

/** Several heads wherever the width allows: the method joins them itself. */
const headsOf = (width: number): number =>
  [width / 64, 2, 3].find((n) => n > 1 && Number.isInteger(n) && width % n === 0) ?? 1

/** `[tokens, in]` through `[out, in]`: `[tokens, out]`, summed in double precision. */
function applied(weight: NdArray, x: NdArray): NdArray {
  const [out = 0, inputs = 0] = weight.shape
  const tokens = x.shape[0] ?? 0
  const data = new Float32Array(tokens * out)
  for (let token = 0; token < tokens; token++)
    for (let o = 0; o < out; o++) {
      let sum = 0
      for (let i = 0; i < inputs; i++) sum += (x.data[token * inputs + i] ?? 0) * (weight.data[o * inputs + i] ?? 0)
      data[token * out + o] = sum
    }
  return { shape: [tokens, out], data }
}

/** `[tokens, heads · dim]` as `[heads, tokens, dim]`. */
function splitByHead(rows: NdArray): NdArray {
  const [tokens = 0, width = 0] = rows.shape
  const heads = headsOf(width)
  const dim = width / heads
  const data = new Float32Array(rows.data.length)
  for (let token = 0; token < tokens; token++)
    for (let head = 0; head < heads; head++)
      data.set(
        rows.data.subarray(token * width + head * dim, token * width + (head + 1) * dim),
        (head * tokens + token) * dim,
      )
  return { shape: [heads, tokens, dim], data }
}

/** ‖a − b‖ / ‖b‖, Frobenius. */
function relativeError(a: NdArray, b: NdArray): number {
  let [difference, norm] = [0, 0]
  b.data.forEach((y, at) => {
    difference += ((a.data[at] ?? Number.NaN) - y) ** 2
    norm += y ** 2
  })
  return norm > 0 ? Math.sqrt(difference / norm) : 0
}
