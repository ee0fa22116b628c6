/** Bits of KVQuant's rows: packing is done on the host, row by row; kernels read them as codebook codes with ranges and outliers. */
import {
  type CodebookLayout,
  codebookEncode,
  floatFromHalf,
  halfFromFloat,
  placeBytes,
  readSegments,
} from '@kvloom/kernels'
import { type Tensor, tensor3d } from '@tensorflow/tfjs-core'
import { type ChannelRanges, denseValues, keyOutliers, normalized } from './split'

/** What is stored of rows `[1, n, dim]`; the last three only where the options need them. */
export interface Stored {
  /** int32 `[1, n, ceil(dim * bits / 32)]`: code i of a token at bits i · bits on. */
  readonly codes: Tensor
  /** Values: range and offset of a token, `[1, n, 2]` in the form of the metadata. */
  readonly metadata?: Tensor
  /** Outliers of a token, in rising order of their channels, `[1, n, room]` in the form of the metadata; 0 in what is left of the room. */
  readonly outliers?: Tensor
  /** Their channels, int32 `[1, n, ceil(room * bytes / 4)]`: `bytes` bytes each, the lowest first; the number of channels where there is none. */
  readonly places?: Tensor
}

export interface Form {
  readonly dim: number
  readonly bits: number
  readonly metadata: 'f16' | 'f32'
  /** How many outliers a row has room for. */
  readonly room: number
  /** Of keys. */
  readonly ranges: ChannelRanges | null
  /** Of values: outliers at each end. */
  readonly perEnd: number
  /** Signposts `[2^bits]`. */
  readonly signposts: Float32Array
}

/** Tables on the device: signposts to compare with and to read, `[2^bits, 1]`; ranges and offsets of key channels, `[1, 2, dim]`. */
export interface Tables {
  readonly signposts: Tensor
  readonly decoded: Tensor
  readonly ranges: Tensor | null
}

/** Signposts by number. */
const codesOf = (bits: number): CodebookLayout => ({
  kind: 'codebook',
  vector: 1,
  entries: 2 ** bits,
  tables: 'shared',
  scale: 'none',
  group: 0,
  hadamard: 0,
})

/** How kernels read the rows. */
export const layoutOf = ({ bits, ranges, metadata, room }: Form): CodebookLayout => ({
  ...codesOf(bits),
  scale: ranges ? 'channel' : 'row',
  metadata,
  ...(room > 0 ? { outliers: room } : {}),
})

/** Packs rows f32 `[1, n, dim]`. */
export function encode(rows: Tensor, form: Form, tables: Tables): Stored {
  const { dim, bits, metadata, room, ranges, perEnd } = form
  const [, n = 0] = rows.shape
  const given = rows.dataSync<'float32'>()
  const dense = new Float32Array(n * dim)
  const scales = new Float32Array(2 * n)
  const outliers = new Float32Array(n * room)
  const bytes = placeBytes(dim)
  const placeWords = Math.ceil((room * bytes) / 4)
  const places = new Int32Array(n * placeWords)
  const stored = metadata === 'f16' ? (x: number) => floatFromHalf(halfFromFloat(x)) : Math.fround
  for (let row = 0; row < n; row++) {
    const x = given.subarray(row * dim, (row + 1) * dim)
    const found = ranges ? null : denseValues(x, perEnd)
    const out = found ? found.outliers : ranges ? keyOutliers(x, ranges, room) : []
    const [scale, offset] = [stored(found?.range ?? 0), stored(found?.offset ?? 0)]
    scales.set([scale, offset], 2 * row)
    for (let channel = 0; channel < dim; channel++)
      dense[row * dim + channel] = ranges
        ? normalized(x[channel] ?? 0, ranges.offset[channel] ?? 0, ranges.range[channel] ?? 0)
        : normalized(x[channel] ?? 0, offset, scale)
    for (let slot = 0; slot < room; slot++) {
      const place = out[slot] ?? dim
      const word = row * placeWords + ((slot * bytes) >> 2)
      places[word] = (places[word] ?? 0) | (place << (8 * ((slot * bytes) & 3)))
      if (place === dim) continue
      outliers[row * room + slot] = x[place] ?? 0
      // Code 0.
      dense[row * dim + place] = form.signposts[0] ?? 0
    }
  }
  const { codes } = codebookEncode(tensor3d(dense, [1, n, dim]), codesOf(bits), tables.signposts)
  return {
    codes,
    ...(ranges ? {} : { metadata: store(scales, metadata, n, 2) }),
    ...(room === 0
      ? {}
      : { outliers: store(outliers, metadata, n, room), places: tensor3d(places, [1, n, placeWords], 'int32') }),
  }
}

/** `[1, n, count]` as it is stored. */
function store(numbers: Float32Array, form: 'f16' | 'f32', n: number, count: number): Tensor {
  if (form === 'f32') return tensor3d(numbers, [1, n, count])
  const words = new Int32Array(n * Math.ceil(count / 2))
  for (let row = 0; row < n; row++)
    for (let i = 0; i < count; i++) {
      const at = row * Math.ceil(count / 2) + (i >> 1)
      words[at] = (words[at] ?? 0) | (halfFromFloat(numbers[row * count + i] ?? 0) << (16 * (i & 1)))
    }
  return tensor3d(words, [1, n, Math.ceil(count / 2)], 'int32')
}

/** Unpacks rows f32 `[1, n, dim]`. */
export function decode(
  { codes, metadata, outliers, places }: Stored,
  n: number,
  form: Form,
  { decoded, ranges }: Tables,
): Tensor {
  const tensors = [codes, metadata, outliers, places].filter((t) => t !== undefined)
  const page = { layout: layoutOf(form), tensors, table: decoded, ...(ranges ? { ranges } : {}) }
  return readSegments({ segments: [{ ...page, from: 0, rows: n }], heads: 1, dim: form.dim })
}
