/** Cases of KVQuant: thresholds and signposts learned from given rows and weights, and rows encoded with the case's signposts. */
import { type Artifact, type HostTensor, NOTHING_ASKED, type Part, type Stage, stagesOn } from '@kvloom/core'
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
import { placeBytes } from '@kvloom/kernels'
import { channelRanges, moved, type Normalized, nearest, normalizedRows, qNormOf } from '../src/fit'
import { kvquant } from '../src/kvquant'

/** KVQuant against its authors' data. */
export const adapter: CaseAdapter = { method: 'kvquant', run }

/** Note of the data: how far above their cost a local optimum may lie. */
const INERTIA = 0.02
/** Sums of f32 numbers, in another order. */
const SUMS = 1e-4
/** Differences of means that are nearly equal. */
const OFFSETS = 1e-3
/** Shares are 1 less a mean in f32, which has 6e-8 of 1. */
const SHARES = 1e-5

/** What a case's calibration rows give; null for a case without any, whose expected tensors stand in for them. */
interface Learning {
  /** Numbers that signposts are learned from. */
  readonly found: Normalized
  readonly outlierShare: number
  readonly fitted: Float32Array
  readonly tensors: Readonly<Record<string, HostTensor>>
}

async function run(golden: GoldenCase): Promise<Outcome> {
  const [x, lut] = [await golden.input('x'), await golden.expected('lut')]
  const [tokens = 0, dim = 0] = x.shape
  const { compressor, stage, part, bits, qNorm } = methodOf(golden, dim)
  const learning = golden.has('calib_x') ? await learn(golden, stage) : null
  const signposts = Float32Array.from(lut.data)
  const norm = qNorm && learning ? qNormOf(learning.found.x, signposts) : { scale: 1, offset: 0 }
  const tables = {
    ...learning?.tensors,
    signposts: hostOf(lut),
    decoded: { shape: lut.shape, values: moved(signposts, norm) },
  }
  return withArena(async (arena) => {
    const quantizer = stage.bind(siteIn(arena, oneHead(dim), 0, part), artifactOf(part, tables))
    const block = quantizer.encode(arena.own(toTensor({ shape: [1, ...x.shape], data: x.data })))
    for (const tensor of Object.values(block)) arena.own(tensor)
    const { codes, metadata, outliers, places } = block
    if (!codes) throw new GoldenError('kvquant no longer stores codes.')
    const decoded = await fromTensor(arena.own(quantizer.decode(block, tokens)))
    // The window keeps the first tokens exact.
    const exact = (compressor.window?.sinks ?? 0) * dim
    const recon = {
      shape: x.shape,
      data: Float32Array.from(decoded.data, (v, at) => (at < exact ? (x.data[at] ?? 0) : v)),
    }
    const outlier = new Uint8Array(tokens * dim)
    if (outliers && places) mark(outlier, await fromTensor(places), outliers.shape[2] ?? 0, dim)
    const pairs = metadata && (await fromTensor(metadata)).data
    const results: Record<string, ArrayLike<number> | undefined> = {
      codes: unpack(await fromTensor(codes), bits, tokens, dim),
      outlier,
      recon: recon.data,
      range: pairs?.filter((_, at) => at % 2 === 0),
      offset: pairs?.filter((_, at) => at % 2 === 1),
      upper: learning?.tensors['upper']?.values,
      lower: learning?.tensors['lower']?.values,
    }
    const numbers: Record<string, readonly [actual: number, rel: number]> = {
      evalOutlierFraction: [outlier.filter((mark) => mark === 1).length / outlier.length, SHARES],
      normScale: [norm.scale, SUMS],
      normOffset: [norm.offset, OFFSETS],
      relMSE: [relativeSquareError(x, recon), SUMS],
      ...(learning ? { outlierFractionCalib: [learning.outlierShare, SHARES] } : {}),
    }
    const scalars = Object.entries(golden.scalars).map(([name, expected]) => {
      if (name === 'inertia' && learning && typeof expected === 'number') return compareInertia(learning, expected)
      return numbers[name] ? compareScalar(golden, name, ...numbers[name]) : wrong(name, 'no result for this name')
    })
    return { tensors: [...(await compareTensors(golden, results)), ...scalars] }
  })
}

function methodOf(golden: GoldenCase, dim: number) {
  const part: Part = textOption(golden, 'kind', '') === 'value' ? 'values' : 'keys'
  const bits = numberOption(golden, 'bits')
  const qNorm = golden.options['qNorm'] === true
  const compressor = makeWith(kvquant, {
    bits,
    qNorm,
    dense: numberOption(golden, 'keep'),
    // Every outlier finds room, as in the authors' sparse matrices.
    keyOutliers: dim,
    sinks: numberOption(golden, 'firstTokens'),
    metadata: 'f32',
  })
  const [stage] = stagesOn(compressor, 'quantize', 0, part)
  if (!stage) throw new GoldenError(`kvquant does not quantize ${part}.`)
  return { compressor, stage, part, bits, qNorm }
}

async function learn(golden: GoldenCase, stage: Stage<'quantize'>): Promise<Learning> {
  if (stage.fit?.scope !== 'layer') throw new GoldenError('kvquant no longer fits layer by layer.')
  const [calibration, weights] = [await golden.input('calib_x'), await golden.input('weights')]
  const [rows = 0, dim = 0] = calibration.shape
  const [values, squares] = [Float32Array.from(calibration.data), Float32Array.from(weights.data)]
  const shape = [1, rows, dim]
  const { part } = methodOf(golden, dim)
  const samples = { layer: 0, part, model: oneHead(dim), heads: 1, dim, sources: [] }
  const { tensors } = await stage.fit.run(
    { ...samples, target: [{ shape, values }], gradients: [{ shape, values: squares }] },
    NOTHING_ASKED,
  )
  const { signposts } = tensors
  if (!signposts) throw new GoldenError('kvquant no longer learns signposts.')
  const dense = numberOption(golden, 'keep')
  const ranges = part === 'keys' ? channelRanges([values], dim, dense) : null
  const without = (sinks: number) =>
    normalizedRows([values], [squares], dim, ranges, { dense, sinks, maxSamples: rows, seed: 0 })
  const all = without(0)
  return {
    found: without(numberOption(golden, 'firstTokens')),
    outlierShare: 1 - all.x.length / all.of,
    fitted: Float32Array.from(signposts.values),
    tensors,
  }
}

/** Note of the data: signposts are a local optimum, so their cost is compared. */
function compareInertia({ found, fitted }: Learning, expected: number): TensorResult {
  let inertia = 0
  for (const [i, x] of found.x.entries()) inertia += (found.weights[i] ?? 0) * (x - nearest(x, fitted)) ** 2
  const excess = Math.max(0, inertia / expected - 1)
  return { name: 'inertia', error: excess, tolerance: INERTIA, where: 'relative, above', passed: excess <= INERTIA }
}

const artifactOf = (part: Part, tensors: Readonly<Record<string, HostTensor>>): Artifact => ({
  stage: 'kvquant',
  fingerprint: 'golden',
  json: null,
  tensors: Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [`0.${part}.${name}`, tensor])),
})

async function compareTensors(
  golden: GoldenCase,
  results: Readonly<Record<string, ArrayLike<number> | undefined>>,
): Promise<TensorResult[]> {
  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    // Signposts are compared by their cost.
    if (name === 'ambiguous' || name === 'lut') continue
    const [expected, result] = [await golden.expected(name), results[name]]
    if (result?.length !== expected.data.length)
      tensors.push(wrong(name, 'no result for this name, or of another size'))
    else {
      const actual = { shape: expected.shape, data: Float32Array.from(result) }
      tensors.push(compareArrays(name, actual, expected, golden.tolerance(name), await ambiguousOf(golden, name)))
    }
  }
  return tensors
}

/** Flat places that the case lists for a tensor, as a mask. */
async function ambiguousOf(golden: GoldenCase, name: string): Promise<{ except?: NdArray }> {
  const { except_ } = golden.tolerance(name)
  if (except_ === undefined) return {}
  const { shape } = await golden.expected(name)
  const data = new Uint8Array(sizeOf(shape))
  for (const at of (await golden.expected(except_)).data) data[at] = 1
  return { except: { shape, data } }
}

/** Reads stored places by their documented layout, and marks them in `[tokens, dim]`. */
function mark(mask: Uint8Array, words: NdArray, room: number, dim: number): void {
  const [bytes, line] = [placeBytes(dim), words.shape[2] ?? 0]
  for (let row = 0; row < mask.length / dim; row++)
    for (let slot = 0; slot < room; slot++) {
      let place = 0
      for (let byte = 0; byte < bytes; byte++) {
        const at = slot * bytes + byte
        place |= (((words.data[row * line + (at >> 2)] ?? 0) >>> (8 * (at & 3))) & 255) << (8 * byte)
      }
      if (place < dim) mask[row * dim + place] = 1
    }
}

/** Reads stored codes by their documented layout, without the kernels that wrote them. */
function unpack(words: NdArray, bits: number, tokens: number, units: number): Int32Array {
  const line = words.shape[2] ?? 0
  return Int32Array.from({ length: tokens * units }, (_, at) => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const place = (at % units) * bits + bit
      code |= (((words.data[Math.floor(at / units) * line + (place >> 5)] ?? 0) >>> (place & 31)) & 1) << bit
    }
    return code
  })
}
