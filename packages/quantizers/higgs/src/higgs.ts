/**
 * HIGGS: a Hadamard transform makes a block of a token's channels look like independent normal numbers; what is left to do is
 * to divide by the block's norm and to round a few numbers at a time to the nearest point of a grid that is optimal for N(0, I).
 *
 *   s = |x|,  z = H x / s  (H the Sylvester matrix, so that z has a mean square of 1)
 *   code = argmin_i |z_j - G_i|²  for each run z_j of d values,  x' = (1 / g) H (s · G[code])
 *
 * V. Malinovskii et al., "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem" (arXiv 2411.17525),
 * section 4, as AQUA-KV (arXiv 2501.19392, section 3.2) uses it for caches: keys before RoPE, the KV heads of a token side by side,
 * the first 4 tokens and up to 127 new ones exact. What differs: norms are stored as f16, the authors' code keeps f32 and counts 16
 * bits; a block of zeros has norm 0, where that code divides by it; the grids are made anew by tools/higgs-grids; no random signs, as in
 * that code (its comments and the paper speak of random ones).
 */
import {
  defineQuantizer,
  evenWindows,
  type HostTensor,
  ModelMismatch,
  OptionError,
  type Quantizer,
  type Site,
} from '@kvloom/core'
import {
  type CodebookLayout,
  type CodebookRows,
  codebookDecode,
  codebookEncode,
  codebookShapes,
  LARGEST_HALF,
} from '@kvloom/kernels'
import { pad, slice, type Tensor } from '@tensorflow/tfjs-core'
import { grid, gridName, gridNames } from './grids'
import { higgsOptions } from './options'

/** A Hadamard transform and the nearest points of an optimal grid, `bits` per value and a norm per block; no calibration. */
export const higgs = defineQuantizer({
  name: 'higgs',
  title: 'HIGGS',
  summary: 'Hadamard transform, then the nearest points of a grid that is optimal for normal numbers.',
  paper: {
    title: 'Pushing the Limits of Large Language Model Quantization via the Linearity Theorem',
    link: 'https://arxiv.org/abs/2411.17525',
  },
  // How many tokens a chunk seals depends on how many come at once.
  chunkInvariant: false,
  options: higgsOptions,
  check({ bits, vector }) {
    if (!grid(gridName(bits, vector)))
      throw new OptionError(
        'higgs',
        'bits',
        bits,
        `bits for which there is a grid of ${vector} dimensions`,
        `Grids: ${gridNames.join(', ')} (dimension d, points n = 2^(bits · d)).`,
      )
  },
  // The rule of AQUA-KV's cache: a buffer that has reached `block` tokens is sealed whole.
  window: ({ sinks, recent, block }) => evenWindows({ sinks, recent, block, drain: 'all' }),
  rope: 'pre',
  // With a group of its own it pads.
  channels: ({ group }) => (group === null ? { multipleOf: SMALLEST_BLOCK, of: 'token' } : undefined),
  quantizer(options, site) {
    const table = grid(gridName(options.bits, options.vector))
    if (!table) throw new OptionError('higgs', 'bits', options.bits, `one of the grids ${gridNames.join(', ')}`)
    return higgsQuantizer({ ...options, table }, site)
  },
})

export interface HiggsSettings {
  /** Points `[n, d]`. */
  readonly table: HostTensor
  /** Channels of a Hadamard block; null: the largest power of two up to 1024 that divides all KV channels. */
  readonly group: number | null
  readonly metadata: 'f16' | 'f32'
}

const LARGEST_BLOCK = 1024
/** Below this a block's norm costs as much as its codes. */
const SMALLEST_BLOCK = 16

/**
 * HIGGS with any table. Rows stay per head when blocks divide a head; else the heads of a token are one row, with zeros behind
 * them (stored, too) where they are no multiple of the block.
 * @throws ModelMismatch when no block fits
 */
export function higgsQuantizer({ table, group: wanted, metadata }: HiggsSettings, site: Site): Quantizer<CodebookRows> {
  const [entries = 0, vector = 0] = table.shape
  const channels = site.heads * site.dim
  const group = wanted ?? blockOf(channels)
  const perHead = site.dim % group === 0
  const row = perHead ? site.dim : channels
  const padded = Math.ceil(row / group) * group
  const layout: CodebookLayout = {
    kind: 'codebook',
    vector,
    entries,
    tables: 'shared',
    scale: 'group',
    group,
    metadata,
    hadamard: group,
  }
  const { bits, units } = codebookShapes('higgs', layout, 1, 1, padded)
  const normBits = (metadata === 'f16' ? 16 : 32) * (padded / group)
  const points = site.hold(table)
  // Norms of two rows share a word, as halves.
  const norms = { counts: 'metadata', rowsPerUnit: metadata === 'f16' ? 2 : 1 } as const
  return {
    layout: padded === row ? layout : { kind: 'custom', fields: { codes: { counts: 'payload' }, metadata: norms } },
    table: points,
    ...(perHead || site.heads === 1 ? {} : { mergedHeads: true }),
    rowsPerGroup: 1,
    // |x| of a block of equal numbers is sqrt(group) times as large.
    ...(metadata === 'f16'
      ? { largest: LARGEST_HALF / Math.sqrt(group), largestCure: "metadata: 'f32' holds larger numbers." }
      : {}),
    theoreticalBitsPerValue: (units * bits + normBits) / row,
    encode: (rows) => codebookEncode(widen(rows, padded), layout, points),
    decode(block, rows) {
      const heads = block.codes.shape[0] ?? 0
      const decoded = codebookDecode(block, layout, points, { heads, rows, dim: padded })
      return padded === row ? decoded : slice(decoded, [0, 0, 0], [heads, rows, row])
    },
  }
}

/** Rows `[heads, n, dim]` with zeros behind them to `[heads, n, width]`. */
function widen(rows: Tensor, width: number): Tensor {
  const [, , dim = 0] = rows.shape
  if (dim === width) return rows
  return pad(rows, [
    [0, 0],
    [0, 0],
    [0, width - dim],
  ])
}

/** The largest power of two up to 1024 that divides `channels`. @throws ModelMismatch when it is too small to be of use */
function blockOf(channels: number): number {
  let block = 1
  while (block < LARGEST_BLOCK && channels % (2 * block) === 0) block *= 2
  if (block >= SMALLEST_BLOCK) return block
  throw new ModelMismatch(
    'higgs',
    `a token has ${channels} KV channels, which no Hadamard block of ${SMALLEST_BLOCK} or more divides.`,
    // A block to pad to.
    {
      kind: 'options',
      method: 'higgs',
      options: { group: 2 ** Math.ceil(Math.log2(Math.max(channels, SMALLEST_BLOCK))) },
    },
  )
}
