// Segments as records of int32, as assembly/attention-call.ts declares them.
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { codebookFactor } from './codebook/decode'
import { codebookShapes } from './codebook/layout'
import type { RowSegment } from './layouts'
import type { WasmRuntime } from './wasm/runtime'

export const recordWords = 24

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

/** kind, bits, group, wide, data, its head and line strides, metadata, its strides, from, rows, query, unrotated; then what codebooks need, and share. Strides in bytes. */
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
    const wide = layout.metadata === 'f32'
    const metadata = strides(second, (second.shape[2] ?? 0) * (wide ? 8 : 4))
    record.set([kinds[layout.along], layout.bits, layout.group, wide ? 1 : 0, ...data, ...metadata, ...view])
  } else if (layout.kind === 'codebook' && segment.table) {
    const { bits, span, units } = codebookShapes('codebook', layout, 1, rows, dim)
    const { vector, entries, hadamard } = layout
    const metadata = second ? strides(second, (second.shape[2] ?? 0) * 4) : [0, 0, 0]
    const unitBytes = layout.tables === 'shared' ? 0 : entries * vector * 4
    record.set([kinds.codebook, bits, span, layout.metadata === 'f32' ? 1 : 0, ...data, ...metadata, ...view])
    record.set([vector, entries, runtime.pointerOf(segment.table), unitBytes * units, unitBytes, hadamard], 14)
    new Float32Array(record.buffer)[20] = codebookFactor(layout)
  }
  return record
}
