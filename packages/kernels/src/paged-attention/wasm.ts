// Writes the call and its segments as int32 records into scratch, as assembly/paged-attention.ts and assembly/segments.ts read them.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { recordsOf, recordWords, writeRecords } from '../segment-record'
import type { WasmRuntime } from '../wasm/runtime'
import {
  type AttentionAttributes,
  type AttentionCall,
  attentionMassName,
  type MassAttributes,
  pagedAttentionName,
  positionError,
} from './call'

const callWords = 52
/** Where the kernel says that a position was outside the tables. */
const wrongPositionWord = 26

/** Where a call writes; 0 for what is not wanted. */
interface Targets {
  readonly output: number
  readonly logSumExp: number
  readonly mass: number
  readonly largest: boolean
}

/** Words of a record: keys stored before the rotary embedding, Hadamard block of codes. */
const unrotatedWord = 13
const hadamardWord = 19
/** What scales the entries of codes; 3 says maps. */
const rangedWord = 23
const hasMaps = (record: Int32Array): boolean => record[rangedWord] === 3

/** Hadamard block of the first codebook segment that has one: what the call's queries or outputs are rotated by. */
function hadamardBlock(records: readonly Int32Array[]): number {
  for (let i = 0; i < records.length; i++) {
    const record = records[i] as Int32Array
    if (record[hadamardWord] !== 0 && record[unrotatedWord] === 0) return record[hadamardWord] as number
  }
  return 0
}

/** Elements from one KV head to the next of a tensor `[kvHeads or 1, total]`. */
const headStride = (tensor: TensorInfo | undefined): number =>
  tensor && tensor.shape[0] !== 1 ? (tensor.shape[1] ?? 0) : 0

const listWords = (lists: readonly Int32Array[]): number =>
  lists.reduce((words, list) => words + list.length, lists.length + 1)

/** Writes where each list starts and where the last one ends, then the lists. */
function writeLists(lists: readonly Int32Array[], table: Int32Array, at: number): void {
  let start = 0
  for (const [i, list] of lists.entries()) {
    table[at + i] = start
    table.set(list, at + lists.length + 1 + start)
    start += list.length
  }
  table[at + lists.length] = start
}

/** Runs the call; when it fails, `made` tensors are disposed. */
function runCall(
  call: AttentionCall,
  runtime: WasmRuntime,
  targets: Targets,
  made: readonly (TensorInfo | undefined)[],
): void {
  const { rotation } = call
  const variants = call.queries.length
  const keys = recordsOf(call.keys, call.keyDim, runtime)
  const values = recordsOf(call.values, call.valueDim, runtime)
  // Rows of lists are decoded whole, so nothing is read in the space of a table.
  const keyBlock = call.lists ? 0 : hadamardBlock(keys)
  const valueBlock = call.lists ? 0 : hadamardBlock(values)
  const [maxPositions = 0, pairs = 0] = rotation?.cos.shape ?? []
  const keysAt = callWords + variants
  const valuesAt = keysAt + call.keys.length * recordWords
  const listsAt = valuesAt + call.values.length * recordWords
  const tableWords = listsAt + (call.lists ? listWords(call.lists) : 0)
  const scratchBytes = runtime.functions.attentionScratch(
    call.group,
    call.n,
    call.keyDim,
    call.valueDim,
    variants,
    keyBlock,
    valueBlock,
    rotation ? 1 : 0,
    keys.some(hasMaps) || values.some(hasMaps) ? 1 : 0,
  )
  const done = runtime.withScratch(tableWords * 4 + scratchBytes, (pointer) => {
    const table = runtime.int32At(pointer, tableWords)
    const live = call.live ? runtime.pointerOf(call.live) : 0
    table.set([
      call.kvHeads,
      call.group,
      call.n,
      call.keyDim,
      call.valueDim,
      call.total,
      0,
      call.causal ? 1 : 0,
      live,
      targets.output,
      targets.logSumExp,
      pointer + keysAt * 4,
      call.keys.length,
      pointer + valuesAt * 4,
      call.values.length,
      variants,
      pointer + tableWords * 4,
      targets.mass,
      targets.largest ? 1 : 0,
      ...(rotation
        ? [runtime.pointerOf(rotation.cos), runtime.pointerOf(rotation.sin), runtime.pointerOf(rotation.positions)]
        : [0, 0, 0]),
      pairs,
      maxPositions,
      keyBlock,
      valueBlock,
      0,
      headStride(call.live),
      headStride(rotation?.positions),
      call.lists ? pointer + listsAt * 4 : 0,
    ])
    new Float32Array(table.buffer, pointer + 24, 1)[0] = call.scale
    for (let i = 0; i < variants; i++) table[callWords + i] = runtime.pointerOf(call.queries[i] as TensorInfo)
    writeRecords(keys, table, keysAt)
    writeRecords(values, table, valuesAt)
    if (call.lists) writeLists(call.lists, table, listsAt)
    runtime.functions.pagedAttention(pointer)
    return runtime.int32At(pointer, callWords)[wrongPositionWord] === 0
  })
  if (done) return
  for (const tensor of made) if (tensor) runtime.dispose(tensor)
  throw positionError(maxPositions)
}

export const pagedAttentionWasm = wasmKernel<Record<string, TensorInfo>, AttentionAttributes>(
  pagedAttentionName,
  (_, { call }, runtime) => {
    const queryHeads = call.kvHeads * call.group
    const output = call.valueDim > 0 ? runtime.makeOutput([queryHeads, call.n, call.valueDim], 'float32') : undefined
    const logSumExp = call.logSumExp ? runtime.makeOutput([queryHeads, call.n], 'float32') : undefined
    runCall(
      call,
      runtime,
      {
        output: output ? runtime.pointerOf(output) : 0,
        logSumExp: logSumExp ? runtime.pointerOf(logSumExp) : 0,
        mass: 0,
        largest: false,
      },
      [output, logSumExp],
    )
    return [output, logSumExp].filter((tensor) => tensor !== undefined)
  },
)

export const attentionMassWasm = wasmKernel<Record<string, TensorInfo>, MassAttributes>(
  attentionMassName,
  ({ logSumExp }, { call, reduce }, runtime) => {
    const queryHeads = call.kvHeads * call.group
    const own = logSumExp ? undefined : runtime.makeOutput([queryHeads, call.n], 'float32')
    const sums = runtime.pointerOf((logSumExp ?? own) as TensorInfo)
    if (own) runCall(call, runtime, { output: 0, logSumExp: sums, mass: 0, largest: false }, [own])
    const mass = runtime.makeOutput([queryHeads, call.total], 'float32')
    runtime.float32(mass).fill(0)
    runCall(call, runtime, { output: 0, logSumExp: sums, mass: runtime.pointerOf(mass), largest: reduce === 'max' }, [
      own,
      mass,
    ])
    if (own) runtime.dispose(own)
    return mass
  },
)
