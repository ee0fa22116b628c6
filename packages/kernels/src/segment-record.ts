// Segments as records of int32, as assembly/attention-call.ts declares them.
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { codebookFactor } from './codebook/decode'
import { codebookShapes, codebookTensors, placeBytes } from './codebook/layout'
import { metadataForm, type RowSegment } from './layouts'
import type { WasmRuntime } from './wasm/runtime'

export const recordWords = 36
/** Scratch of a table that turns a byte of codes into channels, and of a map: LOOKUP_BYTES of the assembly. */
export const lookupBytes = 16 + 4096 + 16 + 65 * 256

const kinds = { f32: 0, f16: 1, channels: 2, tokens: 3, codebook: 4 } as const

/** What is remembered of a segment while the object lives. */
interface SegmentMemory {
  /** Sizes it was checked for; -1 before the first check */
  heads: number
  dim: number
  /** Its record: tensors do not move in wasm memory */
  runtime: WasmRuntime | undefined
  recordDim: number
  words: Int32Array
}

/** One map for checks and records: a decode step reads more rows than the cache holds, so every map walked is a miss per segment. */
const memories = new WeakMap<RowSegment, SegmentMemory>()
const noWords = new Int32Array(0)

/** What is remembered of a segment, made when there is nothing yet. */
export function memoryOf(segment: RowSegment): SegmentMemory {
  let memory = memories.get(segment)
  if (!memory) {
    memory = { heads: -1, dim: -1, runtime: undefined, recordDim: -1, words: noWords }
    memories.set(segment, memory)
  }
  return memory
}

/** Record of a checked segment whose rows have `dim` channels. */
export function recordOf(segment: RowSegment, dim: number, runtime: WasmRuntime): Int32Array {
  const memory = memoryOf(segment)
  if (memory.runtime !== runtime || memory.recordDim !== dim) {
    memory.words = makeRecord(segment, dim, runtime)
    memory.runtime = runtime
    memory.recordDim = dim
  }
  return memory.words
}

export function recordsOf(segments: readonly RowSegment[], dim: number, runtime: WasmRuntime): Int32Array[] {
  const records: Int32Array[] = []
  for (let i = 0; i < segments.length; i++) records.push(recordOf(segments[i] as RowSegment, dim, runtime))
  return records
}

/** Writes the records of segments one after the other. By a loop: `set` costs several times as much on so few words. */
export function writeRecords(records: readonly Int32Array[], table: Int32Array, at: number): void {
  for (let i = 0; i < records.length; i++) {
    const record = records[i] as Int32Array
    for (let word = 0; word < recordWords; word++) table[at++] = record[word] as number
  }
}

/** What scales the entries of a codebook besides norms: nothing, ranges of rows, those of channels, maps of blocks. */
const ranged = { none: 0, group: 0, row: 1, channel: 2, map: 3 } as const

/** kind, bits, group, wide, data, its head and line strides, metadata, its strides, from, rows, query, unrotated; then share, and what codebooks need. Strides in bytes. */
function makeRecord(segment: RowSegment, dim: number, runtime: WasmRuntime): Int32Array {
  const { layout, tensors, from, rows, query = 0, unrotated = false, share = 1 } = segment
  const record = new Int32Array(recordWords)
  record[21] = share
  const [first, second] = tensors as readonly Tensor[] as readonly [Tensor, Tensor | undefined]
  const strides = (tensor: TensorInfo, line: number): [number, number, number] => [
    runtime.pointerOf(tensor),
    line * (tensor.shape[1] ?? 0),
    line,
  ]
  const data = strides(first, (first.shape[2] ?? 0) * 4)
  const view = [from, rows, query, unrotated ? 1 : 0]
  if (layout.kind === 'dense') record.set([kinds[layout.store], 0, 0, 0, ...data, 0, 0, 0, ...view])
  else if (layout.kind === 'affine' && second) {
    const metadata = strides(second, (second.shape[2] ?? 0) * (second.shape[3] ?? 1) * 4)
    record.set([kinds[layout.along], layout.bits, layout.group, metadataForm(layout), ...data, ...metadata, ...view])
  } else if (layout.kind === 'codebook') codebookRecord(record, segment, dim, view, runtime)
  return record
}

function codebookRecord(
  record: Int32Array,
  segment: RowSegment,
  dim: number,
  view: readonly number[],
  runtime: WasmRuntime,
): void {
  const { layout, tensors, table, ranges, mergedHeads } = segment
  if (layout.kind !== 'codebook' || !table) return
  const { vector, entries, hadamard, tables, scale, outliers: room = 0 } = layout
  const { bits, span, units } = codebookShapes('codebook', { ...layout, outliers: 0 }, 1, 0, dim)
  const { codes, metadata, maps, outliers, places } = codebookTensors(layout, tensors)
  const pointerOf = (tensor: TensorInfo | undefined) => (tensor ? runtime.pointerOf(tensor) : 0)
  const lineOf = (tensor: TensorInfo | undefined) => (tensor?.shape[2] ?? 0) * 4
  const headOf = (tensor: TensorInfo | undefined) => lineOf(tensor) * (tensor?.shape[1] ?? 0)
  const one = mergedHeads !== undefined
  // Heads of one row have their codes and their norms side by side.
  const dataHead = one ? (units * bits) / 8 : headOf(codes)
  const metadataHead = one ? (scale === 'group' ? (dim / span) * 4 : 0) : headOf(metadata)
  const unitBytes = tables === 'shared' ? 0 : entries * vector * 4
  const wide = layout.metadata === 'f32'
  record.set([kinds.codebook, bits, span, wide ? 1 : 0, pointerOf(codes), dataHead, lineOf(codes)])
  record.set([pointerOf(metadata), metadataHead, lineOf(metadata), ...view], 7)
  record.set([vector, entries, pointerOf(table), unitBytes * units, unitBytes, hadamard], 14)
  new Float32Array(record.buffer)[20] = codebookFactor(layout)
  // Pieces of maps take the place of the line of ranges, which no layout has beside them.
  record.set([one ? 1 : 0, ranged[scale], pointerOf(ranges), scale === 'map' ? layout.group : lineOf(ranges)], 22)
  record.set([room, pointerOf(outliers), lineOf(outliers), pointerOf(places), lineOf(places)], 26)
  record.set([placeBytes((mergedHeads ?? 1) * dim), pointerOf(maps), one ? 0 : headOf(maps), lineOf(maps)], 31)
  record[35] = layout.block ?? 1
}
