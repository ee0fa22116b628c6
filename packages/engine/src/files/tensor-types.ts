// The tensor types of ggml: how many values make a block and how many bytes a block takes. All known types are listed so
// that every file can be inspected; only some can be dequantized (dequantize.ts). Numbers: ggml.h, checked against the gguf package.

/** A tensor type of ggml. */
export interface GgmlType {
  readonly id: number
  readonly name: string
  /** Values in a block. */
  readonly blockSize: number
  /** Bytes of a block. */
  readonly blockBytes: number
}

const rows: readonly (readonly [number, string, number, number])[] = [
  [0, 'f32', 1, 4],
  [1, 'f16', 1, 2],
  [2, 'q4_0', 32, 18],
  [3, 'q4_1', 32, 20],
  [6, 'q5_0', 32, 22],
  [7, 'q5_1', 32, 24],
  [8, 'q8_0', 32, 34],
  [9, 'q8_1', 32, 40],
  [10, 'q2_k', 256, 84],
  [11, 'q3_k', 256, 110],
  [12, 'q4_k', 256, 144],
  [13, 'q5_k', 256, 176],
  [14, 'q6_k', 256, 210],
  [15, 'q8_k', 256, 292],
  [16, 'iq2_xxs', 256, 66],
  [17, 'iq2_xs', 256, 74],
  [18, 'iq3_xxs', 256, 98],
  [19, 'iq1_s', 256, 50],
  [20, 'iq4_nl', 32, 18],
  [21, 'iq3_s', 256, 110],
  [22, 'iq2_s', 256, 82],
  [23, 'iq4_xs', 256, 136],
  [24, 'i8', 1, 1],
  [25, 'i16', 1, 2],
  [26, 'i32', 1, 4],
  [27, 'i64', 1, 8],
  [28, 'f64', 1, 8],
  [29, 'iq1_m', 256, 56],
  [30, 'bf16', 1, 2],
  [34, 'tq1_0', 256, 54],
  [35, 'tq2_0', 256, 66],
  [39, 'mxfp4', 32, 17],
]

/** Every tensor type this package knows the size of, by its id in a GGUF file. */
export const ggmlTypes: ReadonlyMap<number, GgmlType> = /* @__PURE__ */ new Map(
  rows.map(([id, name, blockSize, blockBytes]) => [id, { id, name, blockSize, blockBytes }]),
)

/** Formats that `dequantize` turns into f32. */
export const fileFormats = [
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q4_0',
  'q4_1',
  'q5_0',
  'q5_1',
  'q4_k',
  'q5_k',
  'q6_k',
] as const

/** A format that `dequantize` turns into f32. */
export type FileFormat = (typeof fileFormats)[number]

/** Is this a format that `dequantize` understands? */
export function isFileFormat(name: string): name is FileFormat {
  return (fileFormats as readonly string[]).includes(name)
}

/** Block size and bytes of a format by name. */
export function formatLayout(format: FileFormat): GgmlType {
  for (const type of ggmlTypes.values()) if (type.name === format) return type
  throw new RangeError(`no layout for ${format}`)
}
