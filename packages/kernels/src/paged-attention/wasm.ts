// Writes the call and its segments as int32 records into scratch, as assembly/paged-attention.ts and assembly/segments.ts read them.
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import type { RowSegment } from '../layouts'
import type { WasmRuntime } from '../wasm/runtime'
import { type AttentionAttributes, type AttentionCall, type MassAttributes, attentionMassName, pagedAttentionName } from './call'

const callWords = 20
const recordWords = 16

/** Where a call writes; 0 for what is not wanted. */
interface Targets {
  readonly output: number
  readonly logSumExp: number
  readonly mass: number
  readonly largest: boolean
}

/** Records of segments, kept while the segment object lives: tensors do not move in wasm memory. So a call costs about 30 ns a segment here. */
const records = new WeakMap<RowSegment, { readonly runtime: WasmRuntime; readonly words: Int32Array }>()

function recordOf(segment: RowSegment, runtime: WasmRuntime): Int32Array {
  const known = records.get(segment)
  if (known?.runtime === runtime) return known.words
  const words = makeRecord(segment, runtime)
  records.set(segment, { runtime, words })
  return words
}

/** kind, bits, group, wide, data, its head and line strides, metadata, its strides, from, rows, query; strides in bytes. */
function makeRecord({ layout, tensors, from, rows, query = 0 }: RowSegment, runtime: WasmRuntime): Int32Array {
  const record = new Int32Array(recordWords)
  const [first, second] = tensors as readonly Tensor[] as readonly [Tensor, Tensor | undefined]
  const strides = (tensor: TensorInfo, line: number): [number, number, number] => [runtime.pointerOf(tensor), line * (tensor.shape[1] ?? 0), line]
  const data = strides(first, (first.shape[2] ?? 0) * 4)
  if (layout.kind === 'dense') record.set([layout.store === 'f16' ? 1 : 0, 0, 0, 0, ...data, 0, 0, 0, from, rows, query])
  else if (second) {
    const wide = layout.metadata === 'f32'
    const metadata = strides(second, (second.shape[2] ?? 0) * (wide ? 8 : 4))
    record.set([layout.along === 'tokens' ? 3 : 2, layout.bits, layout.group, wide ? 1 : 0, ...data, ...metadata, from, rows, query])
  }
  return record
}

function runCall(call: AttentionCall, runtime: WasmRuntime, targets: Targets): void {
  const variants = call.queries.length
  const keysAt = callWords + variants
  const valuesAt = keysAt + call.keys.length * recordWords
  const tableWords = valuesAt + call.values.length * recordWords
  const scratchBytes = runtime.functions.attentionScratch(call.group, call.n, call.keyDim, call.valueDim, variants)
  runtime.withScratch(tableWords * 4 + scratchBytes, (pointer) => {
    const table = runtime.int32At(pointer, tableWords)
    const live = call.live ? runtime.pointerOf(call.live) : 0
    table.set([
      call.kvHeads, call.group, call.n, call.keyDim, call.valueDim, call.total, 0, call.causal ? 1 : 0, live, targets.output, targets.logSumExp,
      pointer + keysAt * 4, call.keys.length, pointer + valuesAt * 4, call.values.length, variants, pointer + tableWords * 4, targets.mass, targets.largest ? 1 : 0, 0,
    ])
    new Float32Array(table.buffer, pointer + 24, 1)[0] = call.scale
    for (let i = 0; i < variants; i++) table[callWords + i] = runtime.pointerOf(call.queries[i] as TensorInfo)
    for (let i = 0; i < call.keys.length; i++) table.set(recordOf(call.keys[i] as RowSegment, runtime), keysAt + i * recordWords)
    for (let i = 0; i < call.values.length; i++) table.set(recordOf(call.values[i] as RowSegment, runtime), valuesAt + i * recordWords)
    runtime.functions.pagedAttention(pointer)
  })
}

export const pagedAttentionWasm = wasmKernel<Record<string, TensorInfo>, AttentionAttributes>(pagedAttentionName, (_, { call }, runtime) => {
  const queryHeads = call.kvHeads * call.group
  const output = call.valueDim > 0 ? runtime.makeOutput([queryHeads, call.n, call.valueDim], 'float32') : undefined
  const logSumExp = call.logSumExp ? runtime.makeOutput([queryHeads, call.n], 'float32') : undefined
  runCall(call, runtime, { output: output ? runtime.pointerOf(output) : 0, logSumExp: logSumExp ? runtime.pointerOf(logSumExp) : 0, mass: 0, largest: false })
  return [output, logSumExp].filter((tensor) => tensor !== undefined)
})

export const attentionMassWasm = wasmKernel<Record<string, TensorInfo>, MassAttributes>(attentionMassName, ({ logSumExp }, { call, reduce }, runtime) => {
  const queryHeads = call.kvHeads * call.group
  const own = logSumExp ? undefined : runtime.makeOutput([queryHeads, call.n], 'float32')
  const sums = runtime.pointerOf((logSumExp ?? own) as TensorInfo)
  if (own) runCall(call, runtime, { output: 0, logSumExp: sums, mass: 0, largest: false })
  const mass = runtime.makeOutput([queryHeads, call.total], 'float32')
  runtime.float32(mass).fill(0)
  runCall(call, runtime, { output: 0, logSumExp: sums, mass: runtime.pointerOf(mass), largest: reduce === 'max' })
  if (own) runtime.dispose(own)
  return mass
})
