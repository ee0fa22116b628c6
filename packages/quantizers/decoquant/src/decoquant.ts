/**
 * DecoQuant: a block of cached rows is written as the product of a large and a small factor. The outliers go to the small one, which stays in
 * 16 bits, so that the large one, which has nearly all of the numbers, can be quantized to a few bits. It needs no data and no fit.
 *
 *   A = rows of all heads, cut into pieces of J2 channels, `[tokens * J1, J2]` = U S V^T     J1 = channels of a token / J2
 *   L = U S^(1/2), a row `[J1 * r]` per token     R = S^(1/2) V^T, `[r, J2]`     r = min(tokens * J1, J2)
 *   scale[t] = max |L[t]| / (2^(b-1) - 1)     code = roundHalfEven(L / scale)     x' = (code · scale) R
 *
 * P. Liu et al., "Unlocking Data-free Low-bit Quantization with Matrix Decomposition for KV Cache Compression" (arXiv 2405.12591), sections 3.2
 * and 3.3, with two local tensors. What differs: a prompt is decomposed in blocks of `block` tokens, as later tokens are, and not as a whole;
 * codes are computed from the stored half of the scale.
 */
import { defineQuantizer, evenWindows, ModelMismatch, type OptionsOf, type Quantizer, type Site } from '@kvloom/core'
import {
  allocateRows,
  type CodebookLayout,
  codebookDecode,
  codebookEncode,
  floatFromHalf,
  halfFromFloat,
  LARGEST_HALF,
  readRows,
  readSegments,
  writeRows,
} from '@kvloom/kernels'
import { matMul, mul, reshape, type Tensor, tensor3d } from '@tensorflow/tfjs-core'
import { decompose, largestLevel, quantizeRows } from './decompose'
import { decoquantOptions } from './options'

type Options = OptionsOf<typeof decoquantOptions>

/** Rows of all heads together, after RoPE; `block` tokens share a small factor. */
export const decoquant = defineQuantizer({
  name: 'decoquant',
  title: 'DecoQuant',
  summary:
    'Blocks of tokens as a product: a large factor in 2 to 8 bits per token, a small one in 16 that has the outliers.',
  paper: {
    title: 'Unlocking Data-free Low-bit Quantization with Matrix Decomposition for KV Cache Compression',
    link: 'https://arxiv.org/abs/2405.12591',
  },
  options: decoquantOptions,
  window: ({ block }) => evenWindows({ recent: 0, block }),
  rope: 'post',
  rowsPerGroup: ({ block }) => block,
  channels: ({ channels }) => ({ multipleOf: channels, of: 'token' }),
  quantizer(options, site): Quantizer<Stored> {
    const { metadata, block, bits } = options
    const sizes = sizesOf(options, site)
    const table = site.hold({ shape: [sizes.layout.entries, 1], values: levelsOf(bits) })
    const metadataBits = metadata === 'f16' ? 16 : 32
    return {
      layout: readLayout(options, sizes) ?? {
        kind: 'custom',
        fields: { codes: { counts: 'payload' }, metadata: { counts: 'metadata' }, maps: { counts: 'metadata' } },
      },
      table,
      ...(site.heads === 1 ? {} : { mergedHeads: true }),
      rowsPerGroup: block,
      ...limitOf(options, sizes),
      theoreticalBitsPerValue:
        (bits * sizes.width + metadataBits) / sizes.dim +
        (metadataBits * sizes.rank * options.channels) / (block * sizes.dim),
      encode: (rows) => encode(rows, options, sizes, table),
      decode: (stored, rows) => decode(stored, rows, options, sizes, table),
    }
  },
})

/** What is stored of blocks of rows `[1, n, dim]`, n a multiple of `block`. */
interface Stored {
  /** Codes of the large factor, int32 `[1, n, ceil(J1 * rank * bits / 32)]`: code i of a token at bits i · b on; level + largest level. */
  readonly codes: Tensor
  /** Scales, `[1, n / block, block]` in the form of the metadata. */
  readonly metadata: Tensor
  /** Small factors, `[1, n / block, rank * J2]` in the form of the metadata. */
  readonly maps: Tensor
}

interface Sizes {
  /** Channels of a token. */
  readonly dim: number
  /** Rank of a block. */
  readonly rank: number
  /** Numbers of the large factor per token. */
  readonly width: number
  /** Codes alone, without what they are multiplied by. */
  readonly layout: CodebookLayout
}

/** How kernels read the rows; null where the small factor is not square, so that rows have fewer codes than channels. */
const readLayout = ({ channels, block, metadata }: Options, { rank, layout }: Sizes): CodebookLayout | null =>
  rank === channels ? { ...layout, scale: 'map', group: channels, block, metadata } : null

/** @throws ModelMismatch when the pieces do not fit the channels of a token */
function sizesOf({ bits, channels, block }: Options, { heads, dim }: Site): Sizes {
  const all = heads * dim
  if (all % channels !== 0)
    throw new ModelMismatch(
      'decoquant',
      `a token has ${all} KV channels, which pieces of ${channels} do not divide.`,
      `Choose channels that divide ${all}.`,
    )
  const pieces = all / channels
  const rank = Math.min(block * pieces, channels)
  const layout: CodebookLayout = {
    kind: 'codebook',
    vector: 1,
    entries: 2 * largestLevel(bits) + 1,
    tables: 'shared',
    scale: 'none',
    group: 0,
    hadamard: 0,
  }
  return { dim: all, rank, width: pieces * rank, layout }
}

/** The largest finite f32. */
const LARGEST_F32 = 3.4028234663852886e38

/**
 * No number of a factor is larger than the root of the largest singular value, which is at most the norm of the block. In f32 the sums of
 * products must fit as well.
 */
function limitOf({ metadata, block, channels }: Options, { dim }: Sizes) {
  const norm = Math.sqrt(block * dim)
  return metadata === 'f16'
    ? { largest: LARGEST_HALF ** 2 / norm, largestCure: "metadata: 'f32' holds larger numbers." }
    : { largest: LARGEST_F32 / (norm * channels) }
}

/** The levels that codes name. */
function levelsOf(bits: number): Float32Array {
  const top = largestLevel(bits)
  return Float32Array.from({ length: 2 * top + 1 }, (_, code) => code - top)
}

/** Packs rows f32 `[1, n, dim]`. They are decomposed on the host, in float64, since small singular values are lost in f32. */
function encode(rows: Tensor, options: Options, { dim, rank, width, layout }: Sizes, table: Tensor): Stored {
  const { bits, channels, block, metadata } = options
  const [, n = 0] = rows.shape
  const given = rows.dataSync<'float32'>()
  const groups = n / block
  const levels = new Float32Array(n * width)
  const scales = new Float32Array(n)
  const small = new Float32Array(groups * rank * channels)
  const stored = metadata === 'f16' ? (scale: number) => floatFromHalf(halfFromFloat(scale)) : Math.fround
  for (let group = 0; group < groups; group++) {
    const factors = decompose(given.subarray(group * block * dim, (group + 1) * block * dim), channels)
    const quantized = quantizeRows(factors.large, block, bits, stored)
    levels.set(quantized.levels, group * block * width)
    scales.set(quantized.scales, group * block)
    small.set(factors.small, group * rank * channels)
  }
  const { codes } = codebookEncode(tensor3d(levels, [1, n, width]), layout, table)
  return {
    codes,
    metadata: store(scales, metadata, groups, block),
    maps: store(small, metadata, groups, rank * channels),
  }
}

/** `[1, groups, count]` as it is stored. */
function store(numbers: Float32Array, form: 'f16' | 'f32', groups: number, count: number): Tensor {
  const rows = allocateRows(form, 1, groups, count)
  writeRows(rows, form, 0, tensor3d(numbers, [1, groups, count]))
  return rows
}

/** Unpacks rows f32 `[1, n, dim]`. */
function decode(stored: Stored, n: number, options: Options, sizes: Sizes, table: Tensor): Tensor {
  const { channels, block, metadata } = options
  const { dim, rank, width, layout } = sizes
  const { codes, maps } = stored
  const whole = readLayout(options, sizes)
  if (whole) {
    const tensors = [codes, stored.metadata, maps]
    return readSegments({ segments: [{ layout: whole, tensors, table, from: 0, rows: n }], heads: 1, dim })
  }
  const groups = n / block
  const levels = codebookDecode({ codes }, layout, table, { heads: 1, rows: n, dim: width })
  const scale = reshape(readRows(stored.metadata, metadata, block, 0, groups), [n, 1])
  const large = reshape(mul(reshape(levels, [n, width]), scale), [groups, (n / groups) * (width / rank), rank])
  const factor = reshape(readRows(maps, metadata, rank * channels, 0, groups), [groups, rank, channels])
  return reshape(matMul(large, factor), [1, n, dim])
}
