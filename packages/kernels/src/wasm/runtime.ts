// Runs our wasm module on the memory of tfjs's wasm backend, without copies: a kernel gets pointers into tensors.
// This needs four members of the backend that tfjs does not document (`wasm.asm.memory`, `dataIdMap`, `makeOutput`,
// `disposeData`), so they are checked by name before use, and the package pins tfjs ~4.22.0.
// Views of the memory detach whenever it grows: `float32()` and `int32()` make a fresh one at every call; never keep it.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { KernelBackendError } from '../errors'
import { type WasmFunctions, wasmBase64 } from './binary.generated'

const testedVersion = '@tensorflow/tfjs-backend-wasm 4.22.0'

/** What a wasm kernel may use. Pointers are byte addresses, unsigned. */
export interface WasmRuntime {
  readonly functions: WasmFunctions
  /** Byte address of a tensor's first value; valid until the tensor is disposed. */
  pointerOf(tensor: TensorInfo): number
  /** Makes a tensor with undefined contents. */
  makeOutput(shape: number[], dtype: 'float32' | 'int32'): TensorInfo
  /** Frees a tensor made by `makeOutput` that will not be returned. */
  dispose(tensor: TensorInfo): void
  /** Lends `bytes` of uninitialised memory to `use`. */
  withScratch<Result>(bytes: number, use: (pointer: number) => Result): Result
  /** View of a tensor's values; detaches at the next allocation. */
  float32(tensor: TensorInfo): Float32Array
  /** View of a tensor's values; detaches at the next allocation. */
  int32(tensor: TensorInfo): Int32Array
  /** View of raw memory, for tables in scratch; detaches at the next allocation. */
  int32At(pointer: number, length: number): Int32Array
}

interface WasmMemory {
  readonly buffer: ArrayBuffer
}

interface WasmBackendInternals {
  readonly wasm: { readonly asm: { readonly memory: WasmMemory } }
  readonly dataIdMap: { get(dataId: object): { memoryOffset: number | null } }
  makeOutput(shape: number[], dtype: string): TensorInfo
  disposeData(dataId: object): boolean
}

// The type library of this workspace has no DOM; this is the part of WebAssembly used here.
declare const WebAssembly: {
  instantiate(bytes: Uint8Array, imports: { env: { memory: WasmMemory } }): Promise<{ instance: { exports: unknown } }>
}

const runtimes = new WeakMap<object, Promise<WasmRuntime>>()
const readyRuntimes = new WeakMap<object, WasmRuntime>()

/** Instantiates the module on this backend's memory, once per backend. Throws `KernelBackendError` when the backend has another shape than the tested one. */
export function openWasmRuntime(backend: object): Promise<WasmRuntime> {
  const known = runtimes.get(backend)
  if (known) return known
  const opening = instantiate(backend).then((runtime) => {
    readyRuntimes.set(backend, runtime)
    return runtime
  })
  runtimes.set(backend, opening)
  opening.catch(() => runtimes.delete(backend))
  return opening
}

/** The runtime opened on this backend. Throws `KernelBackendError` when there is none. */
export function wasmRuntimeOf(backend: object): WasmRuntime {
  const runtime = readyRuntimes.get(backend)
  if (runtime) return runtime
  throw new KernelBackendError(
    "The kernels are not open on this wasm backend. Call `await registerKernels('wasm')` again after replacing the backend.",
  )
}

async function instantiate(backend: object): Promise<WasmRuntime> {
  checkInternals(backend)
  const memory = backend.wasm.asm.memory
  if (!(memory.buffer instanceof ArrayBuffer)) {
    throw new KernelBackendError(
      'The wasm backend runs with threads (shared memory), which the kernels do not support. Call `env().set("WASM_HAS_MULTITHREAD_SUPPORT", false)` before the backend starts.',
    )
  }
  const bytes = Uint8Array.from(atob(wasmBase64), (character) => character.charCodeAt(0))
  let functions: WasmFunctions
  try {
    const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } })
    functions = instance.exports as WasmFunctions
  } catch (cause) {
    throw new KernelBackendError(
      'The kernels could not be instantiated: this JavaScript engine may lack wasm SIMD. Use the cpu backend there.',
      { cause },
    )
  }
  return makeRuntime(backend, memory, functions)
}

function makeRuntime(backend: WasmBackendInternals, memory: WasmMemory, functions: WasmFunctions): WasmRuntime {
  const pointerOf = (tensor: TensorInfo): number => (backend.dataIdMap.get(tensor.dataId).memoryOffset ?? 0) >>> 0
  const makeOutput = (shape: number[], dtype: 'float32' | 'int32'): TensorInfo => {
    const tensor = backend.makeOutput(shape, dtype)
    const size = sizeOf(shape)
    if (size > 0 && pointerOf(tensor) === 0) {
      backend.disposeData(tensor.dataId)
      throw new KernelBackendError(
        `wasm memory is full: ${size * 4} bytes for ${dtype} [${shape.join(', ')}] were refused, ${memory.buffer.byteLength} are in use (4 GiB at most). Dispose tensors or use a smaller context.`,
      )
    }
    return tensor
  }
  return {
    functions,
    pointerOf,
    makeOutput,
    dispose(tensor) {
      backend.disposeData(tensor.dataId)
    },
    withScratch(bytes, use) {
      const scratch = makeOutput([Math.ceil(bytes / 4)], 'int32')
      try {
        return use(pointerOf(scratch))
      } finally {
        backend.disposeData(scratch.dataId)
      }
    },
    float32: (tensor) => new Float32Array(memory.buffer, pointerOf(tensor), sizeOf(tensor.shape)),
    int32: (tensor) => new Int32Array(memory.buffer, pointerOf(tensor), sizeOf(tensor.shape)),
    int32At: (pointer, length) => new Int32Array(memory.buffer, pointer, length),
  }
}

function sizeOf(shape: number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

function checkInternals(backend: object): asserts backend is WasmBackendInternals {
  const candidate = backend as {
    wasm?: { asm?: { memory?: { buffer?: unknown } } }
    dataIdMap?: { get?: unknown }
    makeOutput?: unknown
    disposeData?: unknown
  }
  const missing = [
    ...(candidate.wasm?.asm?.memory?.buffer ? [] : ['wasm.asm.memory']),
    ...(typeof candidate.dataIdMap?.get === 'function' ? [] : ['dataIdMap']),
    ...(typeof candidate.makeOutput === 'function' ? [] : ['makeOutput']),
    ...(typeof candidate.disposeData === 'function' ? [] : ['disposeData']),
  ]
  if (missing.length === 0) return
  throw new KernelBackendError(
    `This wasm backend has no ${missing.join(', ')}. The kernels are tested with ${testedVersion}: install that version.`,
  )
}
