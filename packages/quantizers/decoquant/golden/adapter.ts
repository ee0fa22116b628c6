/** Cases of DecoQuant: blocks of rows as factors, their codes and what comes back. */
import { type Quantizer, stagesOn } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  compareScalar,
  fromTensor,
  type GoldenCase,
  GoldenError,
  makeWith,
  type NdArray,
  numberOption,
  type Outcome,
  oneHead,
  relativeSquareError,
  siteIn,
  sizeOf,
  type TensorResult,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { decompose, largestLevel } from '../src/decompose'
import { decoquant } from '../src/decoquant'

/** DecoQuant against its authors' data. */
export const adapter: CaseAdapter = { method: 'decoquant', run }

/** Note of the data: how far the squared error of all rows may be from theirs. */
const ERROR_TOLERANCE = 0.02

async function run(golden: GoldenCase): Promise<Outcome> {
  const x = await golden.input('x')
  const [tokens = 0, dim = 0] = x.shape
  const channels = numberOption(golden, 'J2')
  return withArena(async (arena) => {
    const site = siteIn(arena, oneHead(dim))
    const bound = (options: { channels: number; metadata: 'f16' | 'f32' }): Quantizer => {
      const compressor = makeWith(decoquant, { bits: numberOption(golden, 'bits'), block: tokens, ...options })
      const [stage] = stagesOn(compressor, 'quantize', 0, 'keys')
      if (!stage) throw new GoldenError('decoquant does not quantize keys.')
      return stage.bind(site)
    }
    /** Through bits and back, with factors in f32 as the authors have them. */
    const through = async (channels: number) => {
      const quantizer = bound({ channels, metadata: 'f32' })
      const block = quantizer.encode(arena.own(toTensor({ shape: [1, ...x.shape], data: x.data })))
      for (const tensor of Object.values(block)) arena.own(tensor)
      const recon = await fromTensor(arena.own(quantizer.decode(block, tokens)))
      return { block, recon: { ...recon, shape: x.shape } }
    }
    const { block, recon } = await through(channels)
    const { codes: words, metadata: scales, maps: small } = block
    if (!words || !scales || !small)
      throw new GoldenError('decoquant no longer stores codes, scales and a small factor.')
    const { singular, rank } = decompose(x.data, channels)
    const results: Record<string, NdArray> = {
      singular: { shape: [rank], data: Float32Array.from(singular) },
      scale: { ...(await fromTensor(scales)), shape: [tokens] },
      codes: unpack(await fromTensor(words), numberOption(golden, 'bits'), tokens, (dim / channels) * rank),
      TS: { ...(await fromTensor(small)), shape: [rank, channels] },
    }
    const tensors: TensorResult[] = []
    for (const name of golden.expects) {
      const expected = await golden.expected(name)
      const result = results[name]
      if (result)
        tensors.push(compareArrays(name, result, expected, golden.tolerance(name), await ambiguousOf(golden, name)))
      else if (name === 'recon')
        // Note of the data: the difference is measured by the error of quantization, and not by the rows.
        tensors.push(compareArrays(name, minus(recon, x), minus(expected, x), golden.tolerance(name)))
      else if (name !== 'ambiguous') tensors.push(wrong(name, 'no result for this name'))
    }
    const numbers: Record<string, readonly [actual: number, rel: number]> = {
      relMSE: [relativeSquareError(x, recon), ERROR_TOLERANCE],
      plainRowQuantRelMSE: [relativeSquareError(x, (await through(1)).recon), ERROR_TOLERANCE],
      // Sums in another order, and codes for every number of x, also where the large factor has fewer.
      bitsPerValue: [
        bound({ channels, metadata: 'f16' }).theoreticalBitsPerValue +
          numberOption(golden, 'bits') * (1 - rank / channels),
        1e-12,
      ],
    }
    for (const name of Object.keys(golden.scalars))
      tensors.push(
        numbers[name] ? compareScalar(golden, name, ...numbers[name]) : wrong(name, 'no result for this name'),
      )
    return { tensors }
  })
}

const minus = (a: NdArray, b: NdArray): NdArray => ({
  shape: a.shape,
  data: Float32Array.from(a.data, (value, at) => value - (b.data[at] ?? 0)),
})

/** Flat places that the case lists for a tensor, as a mask. */
async function ambiguousOf(golden: GoldenCase, name: string): Promise<{ except?: NdArray }> {
  const { except_ } = golden.tolerance(name)
  if (except_ === undefined) return {}
  const { shape } = await golden.expected(name)
  const data = new Uint8Array(sizeOf(shape))
  for (const at of (await golden.expected(except_)).data) data[at] = 1
  return { except: { shape, data } }
}

/** Reads stored codes by their documented layout, without the kernels that wrote them: `[tokens, units]`. */
function unpack(words: NdArray, bits: number, tokens: number, units: number): NdArray {
  const line = words.shape[2] ?? 0
  const top = largestLevel(bits)
  const data = Int32Array.from({ length: tokens * units }, (_, at) => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const place = (at % units) * bits + bit
      code |= (((words.data[Math.floor(at / units) * line + (place >> 5)] ?? 0) >>> (place & 31)) & 1) << bit
    }
    return code - top
  })
  return { shape: [tokens, units], data }
}
