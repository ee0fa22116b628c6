/** Cases of Coupled Quantization: rows encoded with a given codebook, and codebooks learned from given rows and weights. */

import {
  type Artifact,
  type CodebookLayout,
  type HostTensor,
  type KVCompressor,
  type LayerSamples,
  NOTHING_ASKED,
  type Part,
  type Stage,
  stagesOn,
} from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  compareScalar,
  fromTensor,
  type GoldenCase,
  GoldenError,
  hostOf,
  makeWith,
  type NdArray,
  numberOption,
  type Outcome,
  oneHead,
  relativeSquareError,
  siteIn,
  sizeOf,
  type TensorResult,
  textOption,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { codebookBits } from '@kvloom/kernels'
import { coupledQuantization } from '../src/coupled-quantization'
import { lloyd } from '../src/lloyd'

/** Coupled Quantization against the formulas of its paper. */
export const adapter: CaseAdapter = { method: 'cq', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (golden.has('weights')) return learn(golden)
  return golden.expects.includes('codes') ? encode(golden) : null
}

/** Sums of f32 squares, and codes at ambiguous places: far below the error of a wrong code in every row. */
const ERROR_TOLERANCE = 1e-4

const ENCODE: readonly (string | undefined)[] = ['x', 'codebook', 'codes', 'recon', 'ambiguous']

/** Codes `[tokens, groups]` and reconstruction `[tokens, channels]` with the case's codebook. */
async function encode(golden: GoldenCase): Promise<Outcome> {
  const given = (name: string): Promise<NdArray> => (golden.has(name) ? golden.input(name) : golden.expected(name))
  const [x, codebook] = [await given('x'), await given('codebook')]
  const [tokens = 0, channels = 0] = x.shape
  const units = channels / numberOption(golden, 'coupled')
  const compressor = makeWith(coupledQuantization, { ...sizesOf(golden), sensitivity: 'none' })
  return withArena(async (arena) => {
    const quantizer = stageOf(golden, compressor).bind(
      siteIn(arena, oneHead(channels), 0, partOf(golden)),
      artifactOf(golden, { ...hostOf(codebook), shape: [1, ...codebook.shape] }),
    )
    const block = quantizer.encode(arena.own(toTensor({ shape: [1, tokens, channels], data: x.data })))
    for (const tensor of Object.values(block)) arena.own(tensor)
    if (!block['codes'] || Object.keys(block).length > 1 || quantizer.layout.kind !== 'codebook')
      throw new GoldenError('coupled-quantization no longer stores codebook codes and nothing else.')
    const codes = unpack(await fromTensor(block['codes']), quantizer.layout, tokens, units)
    const decoded = await fromTensor(arena.own(quantizer.decode(block, tokens)))
    const recon: NdArray = { ...decoded, shape: x.shape }

    const expected = await golden.expected('codes')
    const open = await ambiguousOf(golden, expected)
    const tensors = [compareArrays('codes', codes, expected, golden.tolerance('codes'), { except: open })]
    const different = Uint8Array.from(open.data, (ambiguous, at) =>
      ambiguous && codes.data[at] !== expected.data[at] ? 1 : 0,
    )
    if (golden.expects.includes('recon')) {
      const want = await golden.expected('recon')
      const width = channels / units
      const except = { shape: want.shape, data: want.data.map((_, at) => different[Math.floor(at / width)] ?? 0) }
      tensors.push(compareArrays('recon', recon, want, golden.tolerance('recon'), { except }))
    }
    const known = [...ENCODE, golden.tolerance('codes').except_]
    for (const name of golden.expects) if (!known.includes(name)) tensors.push(wrong(name, 'no result for this name'))
    const numbers: Record<string, readonly [actual: number, rel: number]> = {
      relMSE: [relativeSquareError(x, recon), ERROR_TOLERANCE],
      bitsPerValue: [quantizer.theoreticalBitsPerValue, 0],
      codebookBytesF16: [2 * (quantizer.table?.size ?? 0), 0],
    }
    for (const name of Object.keys(golden.scalars))
      tensors.push(
        numbers[name] ? compareScalar(golden, name, ...numbers[name]) : wrong(name, 'no result for this name'),
      )
    return { tensors }
  })
}

/** The case's start of Lloyd's steps. */
const FIRST_TOKENS = 'first 2^b calibration tokens of the group'
/** Note of the data: costs of the first steps, and of later ones, where f32 and f64 part ways. */
const EARLY_COST = { steps: 2, rel: 1e-3 }
const LATER_COST = { rel: 0.01 }
/** Note of the data: how their best codebooks were made. */
const BEST = { restarts: 4, iterations: 25 }
/** Note of the data: how far above their cost a local optimum may lie. */
const BEST_REL = 0.03
/** A place that no row is nearest to. */
const FAR = 1e15

/** Lloyd steps from the first rows, and the codebooks that the stage fits by itself. */
async function learn(golden: GoldenCase): Promise<Outcome> {
  const [x, weights] = [await golden.input('x'), await golden.input('weights')]
  const { channels: vector, bits } = sizesOf(golden)
  const [rows = 0, dim = 0] = x.shape
  const [units, entries] = [dim / vector, 2 ** bits]
  const { layout, table: fitted } = await fit(golden, x, weights)
  /** Place in x of number `at` of a group's `[rows, vector]`. */
  const placeOf = (at: number, unit: number) => Math.floor(at / vector) * dim + unit * vector + (at % vector)
  const groups = Array.from({ length: units }, (_, unit) => ({
    points: Float32Array.from({ length: rows * vector }, (_, at) => x.data[placeOf(at, unit)] ?? 0),
    weights: Float32Array.from({ length: rows }, (_, row) => weights.data[row * units + unit] ?? 0),
  }))
  const samples = { heads: 1, rows, dim, values: Float32Array.from(x.data), groups }
  const after = async (start: Float32Array, steps: number) => {
    const { table, costs } = await lloyd(samples, layout, start, { steps, empty: 'keep' })
    return { table, cost: costs.reduce((a, b) => a + b, 0) }
  }
  const start = (place: (entry: number) => number | null) =>
    Float32Array.from({ length: units * entries * vector }, (_, at) => {
      const row = place(Math.floor(at / vector) % entries)
      return row === null
        ? FAR
        : (x.data[placeOf(row * vector + (at % vector), Math.floor(at / (entries * vector)))] ?? 0)
    })
  const first = start((entry) => entry)

  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    if (name !== 'lloyd_step1' || textOption(golden, 'lloydInit', '') !== FIRST_TOKENS) {
      tensors.push(wrong(name, 'no result for this name'))
      continue
    }
    const step: NdArray = { shape: [units, entries, vector], data: (await after(first, 1)).table }
    tensors.push(compareArrays(name, step, await golden.expected(name), golden.tolerance(name)))
  }
  for (const [name, expected] of Object.entries(golden.scalars)) {
    if (name === 'inertiaAfterStep' && Array.isArray(expected)) {
      const costs = await Promise.all(expected.map((_, steps) => after(first, steps)))
      tensors.push(
        ...compareDescent(
          name,
          costs.map(({ cost }) => cost),
          expected as number[],
        ),
      )
    } else if (name === 'bestInertia' && typeof expected === 'number') {
      const { rel = BEST_REL } = golden.tolerance(name)
      const { cost } = await after(fitted, 0)
      const excess = Math.max(0, cost / expected - 1)
      tensors.push({ name, error: excess, tolerance: rel, where: 'relative, above', passed: excess <= rel })
    } else if (name === 'inertiaOneCentroid') {
      const { cost } = await after(
        start((entry) => (entry === 0 ? 0 : null)),
        1,
      )
      tensors.push(compareScalar(golden, name, cost, EARLY_COST.rel))
    } else tensors.push(wrong(name, 'no result for this name'))
  }
  return { tensors }
}

/** Costs after 0, 1, 2 … steps; they must fall. */
function compareDescent(name: string, costs: readonly number[], expected: readonly number[]): TensorResult[] {
  const parts = [
    [0, EARLY_COST.steps + 1, EARLY_COST.rel],
    [EARLY_COST.steps + 1, expected.length, LATER_COST.rel],
  ] as const
  const results = parts.map(([from, to, rel]) => {
    const cut = (numbers: readonly number[]): NdArray => {
      const data = Float32Array.from(numbers.slice(from, to))
      return { shape: [data.length], data }
    }
    return compareArrays(`${name}[${from}:${to}]`, cut(costs), cut(expected), { rel })
  })
  const rise = costs.findIndex((cost, i) => cost > (costs[i - 1] ?? Number.POSITIVE_INFINITY))
  return rise < 0 ? results : [...results, wrong(name, `the cost rises at step ${rise}`)]
}

/** Codebooks that the stage fits on the case's rows; a weight is handed over as the squared gradient of its group's first channel. */
async function fit(
  golden: GoldenCase,
  x: NdArray,
  weights: NdArray,
): Promise<{ readonly layout: CodebookLayout; readonly table: Float32Array }> {
  const [rows = 0, dim = 0] = x.shape
  const { channels: vector } = sizesOf(golden)
  const fisher = golden.options['fisher'] === true
  const stage = stageOf(
    golden,
    makeWith(coupledQuantization, { ...sizesOf(golden), ...BEST, sensitivity: fisher ? 'fisher' : 'none' }),
  )
  if (stage.fit?.scope !== 'layer') throw new GoldenError('coupled-quantization no longer fits layer by layer.')
  const gradients = Float32Array.from({ length: rows * dim }, (_, at) =>
    at % vector === 0 ? (weights.data[at / vector] ?? 0) : 0,
  )
  const model = oneHead(dim)
  const samples: LayerSamples = {
    layer: 0,
    part: partOf(golden),
    model,
    heads: 1,
    dim,
    target: [{ shape: [1, rows, dim], values: Float32Array.from(x.data) }],
    sources: [],
    ...(fisher ? { gradients: [{ shape: [1, rows, dim], values: gradients }] } : {}),
  }
  const { tensors } = await stage.fit.run(samples, NOTHING_ASKED)
  const { codebook } = tensors
  if (!codebook) throw new GoldenError('coupled-quantization no longer learns a codebook.')
  return withArena(async (arena) => {
    const { layout } = stage.bind(siteIn(arena, model, 0, partOf(golden)), artifactOf(golden, codebook))
    if (layout.kind !== 'codebook') throw new GoldenError('coupled-quantization no longer stores codebook codes.')
    return { layout, table: Float32Array.from(codebook.values) }
  })
}

const sizesOf = (golden: GoldenCase) => ({
  channels: numberOption(golden, 'coupled'),
  bits: numberOption(golden, 'bits'),
})

function partOf(golden: GoldenCase): Part {
  const kind = textOption(golden, 'kind', 'k')
  if (kind !== 'k' && kind !== 'v') throw new GoldenError(`Case ${golden.name} is of kind ${kind}, neither k nor v.`)
  return kind === 'k' ? 'keys' : 'values'
}

function stageOf(golden: GoldenCase, compressor: KVCompressor): Stage<'quantize'> {
  const [stage] = stagesOn(compressor, 'quantize', 0, partOf(golden))
  if (!stage) throw new GoldenError(`${compressor.card.name} does not quantize ${partOf(golden)}.`)
  return stage
}

/** Codebooks `[1, groups, entries, channels]` as the artifact of layer 0. */
const artifactOf = (golden: GoldenCase, codebook: HostTensor): Artifact => ({
  stage: 'coupled-quantization',
  fingerprint: 'golden',
  json: null,
  tensors: { [`0.${partOf(golden)}.codebook`]: codebook },
})

/** Flat places that the case lists, as a mask `[tokens, groups]`; none where its tolerance names no such list. */
async function ambiguousOf(golden: GoldenCase, codes: NdArray): Promise<NdArray> {
  const { except_ } = golden.tolerance('codes')
  const data = new Uint8Array(sizeOf(codes.shape))
  for (const at of except_ === undefined ? [] : (await golden.expected(except_)).data) data[at] = 1
  return { shape: codes.shape, data }
}

/** Reads stored codes by their documented layout, without the kernels that wrote them: `[tokens, units]`. */
function unpack(words: NdArray, { entries }: CodebookLayout, tokens: number, units: number): NdArray {
  const bits = codebookBits(entries)
  const line = words.shape[2] ?? 0
  const data = Int32Array.from({ length: tokens * units }, (_, at) => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const place = (at % units) * bits + bit
      code |= (((words.data[Math.floor(at / units) * line + (place >> 5)] ?? 0) >>> (place & 31)) & 1) << bit
    }
    return code
  })
  return { shape: [tokens, units], data }
}
