/** Cases made by the formulas of the paper: caches projected on the leading directions of a group's calibration rows, and the logits that read them. */
import { type CalibrationRun, calibrate, openCache, type Part, type Ready, window } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  compareNamed,
  compareScalar,
  feed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  hostOf,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  type Rows,
  siteIn,
  type TensorResult,
  textOption,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { matMul, mul, reshape, slice, stack, type Tensor, type Tensor3D, tidy, transpose } from '@tensorflow/tfjs-core'
import { compressKvHeads } from '../src/compress-kv-heads'

/** Energies and errors are of float32 rows, summed over a few thousand of them. */
const SCALARS = 1e-4
/** A mean of reconstructed values, weighted by a softmax of logits that may be off by their own tolerance. */
const ATTENDED = { abs: 0.005, rel: 0.005 }

/** Effectively Compress KV Heads against the formulas of its paper. */
export const adapter: CaseAdapter = { method: 'compress-kv-heads', run }

/** What a case gives: rows of one layer, of which the values and the query may be missing. */
interface Given {
  readonly calibration: Readonly<Record<Part, NdArray>>
  readonly rows: Readonly<Record<Part, NdArray>>
  readonly query: NdArray | null
  readonly parts: readonly Part[]
}

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (!golden.has('calibrationKeys')) return null
  const given = await givenBy(golden)
  const fitted = await fittedOn(golden, given)
  const cached = await throughCache(fitted, given)
  const tensors: TensorResult[] = []
  const results: Record<string, NdArray> = {}
  let numbers = 0
  for (const part of given.parts) {
    const [artifact] = fitted.artifacts
    const name = part === 'keys' ? 'K' : 'V'
    const spectrum = artifact?.tensors[`0.${part}.singularValues`]
    if (!spectrum || spectrum.values instanceof Int32Array)
      throw new GoldenError('compress-kv-heads no longer reports singular values.')
    results[`singularValues${name}`] = { shape: spectrum.shape, data: spectrum.values }
    const stage = await throughStage(fitted, given, part)
    numbers += stage.numbers
    const rows = `reconstructed${part === 'keys' ? 'Keys' : 'Values'}`
    results[rows] = stage.reconstructed
    if (stage.logits) results['logits'] = stage.logits
    tensors.push(compareArrays(`${rows} (cache)`, cached[part], await golden.expected(rows), golden.tolerance(rows)))
    tensors.push(
      compareScalar(golden, `relativeError${name}`, relativeError(stage.reconstructed, given.rows[part]), SCALARS),
    )
    const energies = squaresUpTo(results[`singularValues${name}`], numberOption(golden, 'rank'))
    const expected = golden.scalars[`keptEnergy${name}`]
    if (!Array.isArray(expected)) throw new GoldenError(`Case ${golden.name} gives no keptEnergy${name}.`)
    const data = Float32Array.from(expected as number[])
    tensors.push(compareArrays(`keptEnergy${name}`, energies, { shape: [data.length], data }, { rel: SCALARS }))
  }
  if (given.parts.length === 2) tensors.push(compareScalar(golden, 'cachedNumbersPerToken', numbers, 0))
  if (cached.attended)
    tensors.push(
      compareArrays(
        'attention (cache)',
        cached.attended,
        attention(
          await golden.expected('logits'),
          given.parts.length === 2 ? await golden.expected('reconstructedValues') : given.rows.values,
        ),
        ATTENDED,
      ),
    )
  tensors.push(...(await compareNamed(golden, results)))
  return { tensors }
}

async function givenBy(golden: GoldenCase): Promise<Given> {
  const [keys, calibrationKeys] = [await golden.input('keys'), await golden.input('calibrationKeys')]
  const both = golden.has('values')
  return {
    rows: { keys, values: both ? await golden.input('values') : keys },
    calibration: {
      keys: calibrationKeys,
      values: both ? await golden.input('calibrationValues') : calibrationKeys,
    },
    query: golden.has('query') ? await golden.input('query') : null,
    parts: both ? ['keys', 'values'] : ['keys'],
  }
}

/** The method fitted on the calibration rows. Keys of the cases stand where their `rope` says already, so the model rotates nothing. */
async function fittedOn(golden: GoldenCase, { calibration, rows, query, parts }: Given): Promise<Ready> {
  const compressor = compressKvHeads({
    headsPerGroup: numberOption(golden, 'groupSize'),
    rank: numberOption(golden, 'rank'),
    rope: textOption(golden, 'rope', 'post') === 'pre' ? 'pre' : 'post',
    parts: parts.length === 2 ? 'both' : 'keys',
  })
  const refuse = (): never => {
    throw new GoldenError('Golden data of compress-kv-heads gives rows only.')
  }
  const model = modelOf(rowsFor(rows, query))
  const run: CalibrationRun = {
    model,
    weights: { shape: model, names: () => [], get: async () => refuse() },
    rows: async () => ({ keys: [hostOf(calibration.keys)], values: [hostOf(calibration.values)] }),
    gradients: async () => refuse(),
    hidden: async () => refuse(),
    sentences: async () => refuse(),
  }
  return calibrate(window({ store: 'f32' }, compressor), run)
}

/** Rows and queries of all tokens: those of the case's query belong to the last token, and the others are 0. */
function rowsFor(rows: Given['rows'], query: NdArray | null): Rows {
  const [kvHeads = 0, tokens = 0, dim = 0] = rows.keys.shape
  const heads = query?.shape[0] ?? kvHeads
  const data = new Float32Array(heads * tokens * dim)
  for (let head = 0; query && head < heads; head++)
    data.set(query.data.subarray(head * dim, (head + 1) * dim), (head * tokens + tokens - 1) * dim)
  return { queries: { shape: [heads, tokens, dim], data }, ...rows }
}

/** By the stage alone: rows to latents and back, and logits from a projected query and latents that are never expanded. */
async function throughStage(
  { compressor, artifacts }: Ready,
  { rows, query }: Given,
  part: Part,
): Promise<{ readonly reconstructed: NdArray; readonly logits: NdArray | null; readonly numbers: number }> {
  return withArena(async (arena) => {
    const model = modelOf(rowsFor(rows, query))
    const stage = compressor.stages.find((s) => s.kind === 'transform' && s.on?.part === part)
    if (stage?.kind !== 'transform') throw new GoldenError(`compress-kv-heads no longer transforms ${part}.`)
    const transform = stage.bind(siteIn(arena, model, 0, part), artifacts[0])
    const [heads = 0] = rows[part].shape
    const { main } = transform.encode([arena.own(toTensor(rows[part]))], {})
    arena.own(main)
    const { up } = transform.decoder({}, 0)
    if (!up) throw new GoldenError('compress-kv-heads no longer decodes by a map.')
    const each = heads / transform.main.heads
    const dim = (up.shape[2] ?? 0) / each
    const latent = (head: number) => one(main, Math.floor(head / each))
    const block = (head: number): Tensor =>
      slice(one(up, Math.floor(head / each)), [0, (head % each) * dim], [transform.main.dim, dim])
    const perHead = <T>(count: number, of: (at: number) => T) => Array.from({ length: count }, (_, at) => of(at))
    const reconstructed = tidy(() => stack(perHead(heads, (h) => matMul(latent(h) as never, block(h) as never))))
    const numbers = transform.main.heads * transform.main.dim
    const back = await fromTensor(arena.own(reconstructed))
    if (!query || part === 'values') return { reconstructed: back, logits: null, numbers }
    const [queryHeads = 0] = query.shape
    const q = arena.own(toTensor(query)) // [queryHeads, dim]
    const logits = tidy(() =>
      stack(
        perHead(queryHeads, (h) => {
          const kv = Math.floor((h * heads) / queryHeads)
          const projected = matMul(slice(q, [h, 0], [1, dim]) as never, transpose(block(kv)) as never)
          return mul(reshape(matMul(projected, transpose(latent(kv)) as never), [-1]), model.attentionScale)
        }),
      ),
    )
    return { reconstructed: back, logits: await fromTensor(arena.own(logits)), numbers }
  })
}

const one = (x: Tensor, at: number): Tensor => {
  const [, rows = 0, columns = 0] = x.shape
  return reshape(slice(x as Tensor3D, [at, 0, 0], [1, -1, -1]), [rows, columns])
}

/** By a real cache: what it materialises of a prompt, and what its last query attends to. */
async function throughCache(
  fitted: Ready,
  { rows, query }: Given,
): Promise<Readonly<Record<Part, NdArray>> & { readonly attended: NdArray | null }> {
  const all = rowsFor(rows, query)
  const tokens = rows.keys.shape[1] ?? 0
  const cache = openCache(modelOf(all), fitted)
  try {
    const output = await feed(cache, all, 0, tokens, 'promptEnd')
    return await withArena(async (arena) => {
      const { keys, values } = await cache.materialize(0)
      return {
        keys: await fromTensor(arena.own(keys)),
        values: await fromTensor(arena.own(values)),
        attended: query ? lastRow(output) : null,
      }
    })
  } finally {
    cache.dispose()
  }
}

/** The last token of `[heads, tokens, dim]`: `[heads, dim]`. */
function lastRow({ shape: [heads = 0, tokens = 0, dim = 0], data }: NdArray): NdArray {
  const last = new Float32Array(heads * dim)
  for (let head = 0; head < heads; head++)
    last.set(data.subarray(((head + 1) * tokens - 1) * dim, (head + 1) * tokens * dim) as Float32Array, head * dim)
  return { shape: [heads, dim], data: last }
}

/** Softmax of logits `[queryHeads, tokens]` over values `[kvHeads, tokens, dim]`, in double precision: `[queryHeads, dim]`. */
function attention(logits: NdArray, values: NdArray): NdArray {
  const [heads = 0, tokens = 0] = logits.shape
  const [kvHeads = 1, , dim = 0] = values.shape
  const data = new Float32Array(heads * dim)
  for (let head = 0; head < heads; head++) {
    const own = Float64Array.from(logits.data.subarray(head * tokens, (head + 1) * tokens))
    const largest = Math.max(...own)
    const weights = own.map((x) => Math.exp(x - largest))
    const sum = weights.reduce((total, w) => total + w, 0)
    const kv = Math.floor((head * kvHeads) / heads)
    for (let c = 0; c < dim; c++) {
      const mean = weights.reduce((total, w, t) => total + w * (values.data[(kv * tokens + t) * dim + c] ?? 0), 0)
      data[head * dim + c] = mean / sum
    }
  }
  return { shape: [heads, dim], data }
}

/** The share of the squares of the first `rank` of every row. */
function squaresUpTo(spectrum: NdArray | undefined, rank: number): NdArray {
  const [groups = 0, width = 0] = spectrum?.shape ?? []
  const share = (group: number): number => {
    const squares = [...(spectrum?.data ?? [])].slice(group * width, (group + 1) * width).map((s) => s * s)
    const sum = (x: readonly number[]) => x.reduce((total, square) => total + square, 0)
    return sum(squares.slice(0, rank)) / sum(squares)
  }
  return { shape: [groups], data: Float32Array.from({ length: groups }, (_, group) => share(group)) }
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
