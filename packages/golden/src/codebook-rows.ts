/** Shows what a quantizer with a codebook makes of rows, in the shapes of golden data. */

import { type HostTensor, type ModelShape, type Quantizer, type Site, siteOf } from '@kvloom/core'
import type { CodebookRows } from '@kvloom/kernels'
import { codebookBits, floatFromHalf } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Arena } from './arena'
import { fromTensor, type NdArray, sizeOf, toTensor } from './array'
import { compareArrays, type TensorResult, wrong } from './compare'
import { GoldenError } from './errors'
import type { GoldenCase } from './schema'

/** How the blocks of a row are laid out. */
export interface CodebookBlocks {
  readonly group: number
  readonly entries: number
  readonly vector: number
  readonly metadata: 'f16' | 'f32'
}

export interface CodebookResult {
  /** `[tokens, blocks, ceil(group / vector)]`. */
  readonly idx: NdArray
  /** `[tokens, blocks]`. */
  readonly scale: NdArray
  /** `[tokens, channels]`. */
  readonly recon: NdArray
}

/** A model whose tokens have `channels` KV channels, all in one head, and which does not rotate. */
export const oneHead = (channels: number, layers = 1): ModelShape => ({
  name: 'golden',
  layers,
  queryHeads: 1,
  kvHeads: 1,
  keyDim: channels,
  valueDim: channels,
  contextLength: Number.MAX_SAFE_INTEGER,
  rope: null,
  attentionScale: 1 / Math.sqrt(channels),
  fingerprint: 'golden',
})

/** A site whose tables live as long as the arena. */
export const siteIn = (arena: Arena, model: ModelShape, layer = 0, part: Site['part'] = 'keys'): Site =>
  siteOf(model, layer, part, ({ shape, values }) => arena.own(toTensor({ shape, data: values })))

/** Host tensor of a float array. */
export function hostOf({ shape, data }: NdArray): HostTensor {
  return { shape, values: Float32Array.from(data) }
}

/** Sends rows `[tokens, channels]` through the quantizer and back. */
export async function throughCodebook(
  quantizer: Quantizer<CodebookRows>,
  rows: NdArray,
  blocks: CodebookBlocks,
  arena: Arena,
): Promise<CodebookResult> {
  const [tokens = 0, channels = 0] = rows.shape
  const stored = quantizer.encode(arena.own(toTensor({ shape: [1, tokens, channels], data: rows.data })))
  const { codes, metadata } = stored
  arena.own(codes)
  if (!metadata) throw new GoldenError('The quantizer stores no metadata.')
  arena.own(metadata)
  const recon = await fromTensor(arena.own(quantizer.decode(stored, tokens)))
  return {
    ...(await unpack(codes, metadata, blocks, tokens, Math.ceil(channels / blocks.group))),
    recon: { ...recon, shape: [tokens, channels] },
  }
}

/** Reads stored rows by their documented layout, without the kernels that wrote them. */
async function unpack(
  codes: Tensor,
  metadata: Tensor,
  { group, entries, vector, metadata: store }: CodebookBlocks,
  tokens: number,
  blocks: number,
): Promise<{ idx: NdArray; scale: NdArray }> {
  const [words, norms] = [await fromTensor(codes), await fromTensor(metadata)]
  const bits = codebookBits(entries)
  const perBlock = Math.ceil(group / vector)
  const [lineWords = 0, lineNorms = 0] = [words.shape[2], norms.shape[2]]
  const idx = new Int32Array(tokens * blocks * perBlock)
  for (let at = 0; at < idx.length; at++) {
    const [token, unit] = [Math.floor(at / (blocks * perBlock)), at % (blocks * perBlock)]
    for (let bit = 0; bit < bits; bit++) {
      const place = unit * bits + bit
      const word = words.data[token * lineWords + (place >> 5)] ?? 0
      idx[at] = (idx[at] ?? 0) | (((word >>> (place & 31)) & 1) << bit)
    }
  }
  const scale = Float32Array.from({ length: tokens * blocks }, (_, at) => {
    const [token, block] = [Math.floor(at / blocks), at % blocks]
    if (store === 'f32') return norms.data[token * lineNorms + block] ?? 0
    const word = norms.data[(token >> 1) * lineNorms + block] ?? 0
    return floatFromHalf((word >>> (16 * (token & 1))) & 0xffff)
  })
  return { idx: { shape: [tokens, blocks, perBlock], data: idx }, scale: { shape: [tokens, blocks], data: scale } }
}

/**
 * Compares codes, norms and reconstructions. The data lists places where two codes are equally near: a code may differ there, and the
 * reconstruction of a block with such a difference is not compared. `names` says which expected tensor belongs to which part of the
 * result, and `ambiguous` is the name of that list of flat places.
 */
export async function compareCodes(
  golden: GoldenCase,
  result: CodebookResult,
  group: number,
  names: {
    readonly idx: string
    readonly scale: string
    readonly recon: readonly string[]
    readonly ambiguous: string
  },
): Promise<TensorResult[]> {
  if (!golden.expects.includes(names.idx)) return [wrong(names.idx, 'the case expects no codes')]
  const expected = await golden.expected(names.idx)
  const listed = golden.expects.includes(names.ambiguous) ? (await golden.expected(names.ambiguous)).data : []
  const open = new Uint8Array(expected.data.length)
  for (const at of listed) open[at] = 1
  const except = golden.tolerance(names.idx).except_ === undefined ? {} : { except: { ...expected, data: open } }
  const results = [compareArrays(names.idx, result.idx, expected, golden.tolerance(names.idx), except)]
  if (golden.expects.includes(names.scale))
    results.push(
      compareArrays(names.scale, result.scale, await golden.expected(names.scale), golden.tolerance(names.scale)),
    )
  const different = otherCodes(result.idx, expected, open)
  for (const name of names.recon.filter((n) => golden.expects.includes(n))) {
    const want = await golden.expected(name)
    const first = { shape: want.shape, data: result.recon.data.slice(0, sizeOf(want.shape)) }
    results.push(
      compareArrays(name, first, want, golden.tolerance(name), { except: spread(different, want.shape, group) }),
    )
  }
  return results
}

/** Marks the blocks `[tokens, blocks]` in which a code differs at an ambiguous place. */
function otherCodes(idx: NdArray, expected: NdArray, ambiguous: Uint8Array): NdArray {
  const [tokens = 0, blocks = 0, perBlock = 0] = expected.shape
  const data = new Uint8Array(tokens * blocks)
  expected.data.forEach((code, at) => {
    if (ambiguous[at] && idx.data[at] !== code) data[Math.floor(at / perBlock)] = 1
  })
  return { shape: [tokens, blocks], data }
}

/** Spreads marks of blocks of `group` channels over the channels of rows `[rows, channels]`. The last block may be cut short. */
function spread({ shape: [, blocks = 1], data }: NdArray, shape: readonly number[], group: number): NdArray {
  const channels = shape[1] ?? 1
  const wide = Uint8Array.from(
    { length: sizeOf(shape) },
    (_, at) => data[Math.floor(at / channels) * blocks + Math.floor((at % channels) / group)] ?? 0,
  )
  return { shape, data: wide }
}

/** sum (x - y)² / sum x². */
export function relativeSquareError(x: NdArray, y: NdArray): number {
  let [difference, square] = [0, 0]
  x.data.forEach((value, at) => {
    difference += (value - (y.data[at] ?? Number.NaN)) ** 2
    square += value ** 2
  })
  return difference / square
}

/** Compares a number with the one of this name among the case's scalars. */
export function compareScalar(golden: GoldenCase, name: string, actual: number, rel: number): TensorResult {
  const expected = golden.scalars[name]
  if (typeof expected !== 'number') return wrong(name, 'the case gives no such number')
  return compareArrays(
    name,
    { shape: [1], data: Float32Array.of(actual) },
    { shape: [1], data: Float32Array.of(expected) },
    { rel },
  )
}
