/** Bits of KVQuant's rows: packing is done on the host, row by row, reading by kernels. */
import {
  allocateRows,
  type CodebookLayout,
  codebookDecode,
  codebookEncode,
  floatFromHalf,
  halfFromFloat,
  readRows,
  writeRows,
} from '@kvloom/kernels'
import {
  add,
  cast,
  greater,
  mul,
  ones,
  range,
  reshape,
  scatterND,
  slice,
  sum,
  type Tensor,
  tensor1d,
  tensor3d,
  where,
} from '@tensorflow/tfjs-core'
import { type ChannelRanges, denseValues, keyOutliers, normalized } from './split'

/** What is stored of rows `[1, n, dim]`; the last three only where the options need them. */
export interface Stored {
  /** int32 `[1, n, ceil(dim * bits / 32)]`: code i of a token at bits i · bits on. */
  readonly codes: Tensor
  /** Values: range and offset of a token, `[1, n, 2]` in the form of the metadata. */
  readonly scales?: Tensor
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

/** Tables on the device: `[2^bits, 1]` to compare with and to read, ranges and offsets of key channels `[1, 1, dim]`. */
export interface Tables {
  readonly signposts: Tensor
  readonly decoded: Tensor
  readonly range: Tensor | null
  readonly offset: Tensor | null
}

/** Bytes of the number of a channel, and of the number that says there is none. */
export const placeBytes = (dim: number): 1 | 2 => (dim < 256 ? 1 : 2)

const codesOf = (entries: number): CodebookLayout => ({
  kind: 'codebook',
  vector: 1,
  entries,
  tables: 'shared',
  scale: 'none',
  group: 0,
  hadamard: 0,
})

/** The numbers that bytes stand for. */
const bytesTable = (): Tensor => reshape(range(0, 256, 1, 'float32'), [256, 1])

/** Packs rows f32 `[1, n, dim]`. */
export function encode(rows: Tensor, form: Form, tables: Tables): Stored {
  const { dim, bits, metadata, room, ranges, perEnd } = form
  const [, n = 0] = rows.shape
  const given = rows.dataSync<'float32'>()
  const dense = new Float32Array(n * dim)
  const scales = new Float32Array(2 * n)
  const outliers = new Float32Array(n * room)
  const bytes = placeBytes(dim)
  const places = new Float32Array(n * room * bytes)
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
      const at = row * room + slot
      for (let byte = 0; byte < bytes; byte++) places[at * bytes + byte] = (place >> (8 * byte)) & 255
      if (place === dim) continue
      outliers[at] = x[place] ?? 0
      // Code 0.
      dense[row * dim + place] = form.signposts[0] ?? 0
    }
  }
  const { codes } = codebookEncode(tensor3d(dense, [1, n, dim]), codesOf(2 ** bits), tables.signposts)
  return {
    codes,
    ...(ranges ? {} : { scales: store(scales, metadata, n, 2) }),
    ...(room === 0
      ? {}
      : {
          outliers: store(outliers, metadata, n, room),
          places: codebookEncode(tensor3d(places, [1, n, room * bytes]), codesOf(256), bytesTable()).codes,
        }),
  }
}

/** `[1, n, count]` as it is stored. */
function store(numbers: Float32Array, form: 'f16' | 'f32', n: number, count: number): Tensor {
  const rows = allocateRows(form, 1, n, count)
  writeRows(rows, form, 0, tensor3d(numbers, [1, n, count]))
  return rows
}

/** Unpacks rows f32 `[1, n, dim]`. */
export function decode(stored: Stored, n: number, form: Form, tables: Tables): Tensor {
  const { dim, bits, metadata } = form
  const shape = { heads: 1, rows: n, dim }
  const levels = codebookDecode({ codes: stored.codes }, codesOf(2 ** bits), tables.decoded, shape)
  let rows = levels
  if (stored.scales) {
    const scales = readRows(stored.scales, metadata, 2, 0, n)
    rows = add(mul(levels, slice(scales, [0, 0, 0], [1, n, 1])), slice(scales, [0, 0, 1], [1, n, 1]))
  } else if (tables.range && tables.offset) rows = add(mul(levels, tables.range), tables.offset)
  return stored.outliers && stored.places ? withOutliers(rows, stored.outliers, stored.places, n, form) : rows
}

/** Rows with exact numbers in their places. What is left of the room goes to a channel behind the others, which is cut off. */
function withOutliers(
  rows: Tensor,
  outliers: Tensor,
  places: Tensor,
  n: number,
  { dim, room, metadata }: Form,
): Tensor {
  const bytes = placeBytes(dim)
  const shape = { heads: 1, rows: n, dim: room * bytes }
  const read = reshape(codebookDecode({ codes: places }, codesOf(256), bytesTable(), shape), [n, room, bytes])
  const channel = cast(sum(mul(read, tensor1d([1, 256].slice(0, bytes))), 2), 'int32')
  const first = reshape(range(0, n * (dim + 1), dim + 1, 'int32'), [n, 1])
  const at = reshape(add(channel, first), [n * room, 1])
  const spread = (numbers: Tensor): Tensor =>
    slice(reshape(scatterND(at, numbers, [n * (dim + 1)]), [1, n, dim + 1]), [0, 0, 0], [1, n, dim])
  const exact = spread(reshape(readRows(outliers, metadata, room, 0, n), [n * room]))
  return where(greater(spread(ones([n * room])), 0), exact, rows)
}
