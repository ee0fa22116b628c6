/** Cases made by the authors' HIGGS: rows encoded with a given grid, and the error of our own grids on normal numbers. */

import { type KVCompressor, type Quantizer, stagesOn } from '@kvloom/core'
import {
  type CaseAdapter,
  compareCodes,
  compareScalar,
  fromTensor,
  type GoldenCase,
  GoldenError,
  hostOf,
  makeWith,
  numberOption,
  type Outcome,
  oneHead,
  relativeSquareError,
  siteIn,
  type TensorResult,
  throughCodebook,
  withArena,
  wrong,
} from '@kvloom/golden'
import type { CodebookRows } from '@kvloom/kernels'
import { randomNormal } from '@tensorflow/tfjs-core'
import { higgs, higgsQuantizer } from '../src/higgs'

/** HIGGS against its authors' data. */
export const adapter: CaseAdapter = { method: 'higgs', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (golden.has('x')) return encodeOnce(golden)
  const settings = Object.keys(golden.scalars)
  if (settings.length === 0 || golden.expects.length > 0 || !settings.every((name) => SETTING.test(name))) return null
  return gaussianErrors(golden, settings)
}

/** f32 sums and a handful of codes at ambiguous places: far below the error of a wrong code in every row. */
const ERROR_TOLERANCE = 1e-3

/** Codes, norms and reconstruction of rows `[tokens, channels]`. */
async function encodeOnce(golden: GoldenCase): Promise<Outcome> {
  const [x, grid] = [await golden.input('x'), await golden.input('grid')]
  const [entries = 0, vector = 0] = grid.shape
  const group = numberOption(golden, 'groupsize')
  if (numberOption(golden, 'n', entries) !== entries || numberOption(golden, 'dim', vector) !== vector)
    throw new GoldenError(`Case ${golden.name} names another grid than it gives, which is [${grid.shape.join(', ')}].`)
  return withArena(async (arena) => {
    const site = siteIn(arena, oneHead(x.shape[1] ?? 0))
    const withMetadata = (metadata: 'f16' | 'f32'): Quantizer<CodebookRows> =>
      higgsQuantizer({ table: hostOf(grid), group, metadata }, site)
    const blocks = { group, entries, vector, metadata: 'f32' } as const
    const result = await throughCodebook(withMetadata('f32'), x, blocks, arena)
    const tensors = await compareCodes(golden, result, group, {
      idx: 'idx',
      scale: 'scale',
      recon: ['recon', 'recon_first_rows'],
      ambiguous: 'ambiguous',
    })
    const known = ['idx', 'scale', 'recon', 'recon_first_rows', 'ambiguous']
    for (const name of golden.expects) if (!known.includes(name)) tensors.push(wrong(name, 'no result for this name'))
    if ('relMSE' in golden.scalars)
      tensors.push(compareScalar(golden, 'relMSE', relativeSquareError(x, result.recon), ERROR_TOLERANCE))
    if ('bitsPerValue' in golden.scalars)
      tensors.push(compareScalar(golden, 'bitsPerValue', withMetadata('f16').theoreticalBitsPerValue, 0))
    return { tensors }
  })
}

/** `relMSE d=2 n=16 g=64 bits=2`, or `relMSE scalar Lloyd-Max bits=1 g=1024`. */
const SETTING =
  /^relMSE (?:scalar Lloyd-Max|d=(?<d>\d+) n=\d+)(?: g=(?<before>\d+))? bits=(?<bits>[\d.]+)(?: g=(?<after>\d+))?$/

/** As many normal numbers as the data's authors drew; their search of 4096 points is slow, and so is ours. */
const VALUES = 2 ** 19
const VALUES_OF_LARGE_GRIDS = 2 ** 17
const SEED = 11

/** The error of the package's own grids. */
async function gaussianErrors(golden: GoldenCase, settings: readonly string[]): Promise<Outcome> {
  const tensors: TensorResult[] = []
  const { rel = 0 } = golden.tolerance('scalars')
  for (const name of settings) {
    const { d = '1', bits = '', before, after } = SETTING.exec(name)?.groups ?? {}
    const options = { vector: Number(d), bits: Number(bits), group: Number(before ?? after), metadata: 'f32' }
    const values = options.vector * options.bits > 8 ? VALUES_OF_LARGE_GRIDS : VALUES
    const error = await gaussianError(makeWith(higgs, options), options.group, values)
    tensors.push(compareScalar(golden, name, error, rel))
  }
  return { tensors }
}

async function gaussianError(compressor: KVCompressor, group: number, values: number): Promise<number> {
  const [stage] = stagesOn(compressor, 'quantize', 0, 'values')
  if (!stage) throw new GoldenError(`${compressor.card.name} does not quantize values.`)
  return withArena(async (arena) => {
    const quantizer = stage.bind(siteIn(arena, oneHead(group), 0, 'values'))
    const rows = arena.own(randomNormal([1, values / group, group], 0, 1, 'float32', SEED))
    const stored = quantizer.encode(rows)
    for (const tensor of Object.values(stored)) arena.own(tensor)
    const decoded = arena.own(quantizer.decode(stored, values / group))
    return relativeSquareError(await fromTensor(rows), await fromTensor(decoded))
  })
}
