// Formats of packed weights. Rows are interleaved by 8 at load ("panels"), so that a SIMD lane is a row and sums need no
// horizontal step; inside, the same codes and scales as in the GGUF file, and the same number of bits.
//
// Panel layouts, int32 words w (f32: float32), k = column, r = row of the panel, 0..7:
//   f32   [k][r]
//   f16   [k / 2][r]            even k in bits 0-15, odd k in bits 16-31; zeros beside an odd last column
//   q4_0  per 32 columns:       4 words scale r | scale r+4 << 16, then codes
//   q4_1  per 32 columns:       8 words scale r | offset r << 16, then codes
//         codes of 4 bits:      [r / 4][k / 8][r % 4] words; even k in nibbles 0..3, odd k in nibbles 4..7
//   q8_0  per 32 columns:       4 words scale r | scale r+4 << 16, then bytes [k / 4][r / 4][(k % 4) / 2][r % 4][k % 2]
//   q6_k  per 256 columns:      4 words of scales as above, subscales i8 [16][r], then per 32 columns codes of 4 bits as
//                               above (low part) and [r / 4][k / 16][r % 4] words (high two bits; even k in bits 0-15)
import { KernelInputError } from '../errors'

/** Formats `packWeight` accepts; names as in GGUF, lower case. */
export type WeightFormat = 'f32' | 'f16' | 'q8_0' | 'q4_0' | 'q4_1' | 'q6_k'

export interface FormatFacts {
  /** Columns of one block; `inFeatures` must be a multiple. */
  readonly blockColumns: number
  /** Bytes of one block of one row, in the file and, times 8, in a panel. */
  readonly blockBytes: number
}

const facts: Record<WeightFormat, FormatFacts> = {
  f32: { blockColumns: 1, blockBytes: 4 },
  f16: { blockColumns: 1, blockBytes: 2 },
  q8_0: { blockColumns: 32, blockBytes: 34 },
  q4_0: { blockColumns: 32, blockBytes: 18 },
  q4_1: { blockColumns: 32, blockBytes: 20 },
  q6_k: { blockColumns: 256, blockBytes: 210 },
}

/** Names of all formats. */
export const weightFormats = Object.keys(facts) as readonly WeightFormat[]

/** Throws `KernelInputError` for an unknown format. */
export function formatFacts(format: WeightFormat): FormatFacts {
  const known: FormatFacts | undefined = Object.hasOwn(facts, format) ? facts[format] : undefined
  if (known) return known
  throw new KernelInputError({
    where: 'packWeight',
    given: `format '${format}'`,
    allowed: weightFormats.join(', '),
    cure: 'Unpack the weight to float32 and use f32.',
  })
}

/** Rows of a panel. */
export const panelRows = 8

/** int32 (or float32) words of one panel. */
export function panelWords(format: WeightFormat, inFeatures: number): number {
  const { blockColumns, blockBytes } = formatFacts(format)
  const columns = format === 'f16' ? inFeatures + (inFeatures & 1) : inFeatures
  return ((columns / blockColumns) * blockBytes * panelRows) / 4
}
