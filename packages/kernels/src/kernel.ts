// How a kernel is defined and called. A kernel is two tfjs kernel configs of one name ('cpu' and 'wasm') and a public function that checks its arguments and calls `dispatch`.
import {
  engine,
  getBackend,
  getKernel,
  type KernelConfig,
  type NamedAttrMap,
  type Tensor,
  type TensorInfo,
} from '@tensorflow/tfjs-core'
import { type CpuStorage, cpuStorageOf } from './cpu/storage'
import { KernelBackendError } from './errors'
import { type WasmRuntime, wasmRuntimeOf } from './wasm/runtime'

/** Named input tensors; a kernel reads each by the name the public function gave. */
export type KernelInputs = Record<string, TensorInfo>

/** Plain values that travel beside the tensors; objects for calls with tables (attention's segments). */
export type KernelAttributes = Record<string, number | boolean | string | object>

/** What a kernel returns: one tensor, several, or none (`[]`, when it writes into an input in place). */
export type KernelResult = TensorInfo | TensorInfo[]

/** Defines the reference form of a kernel: plain TypeScript on typed arrays. It defines the result. */
export function cpuKernel<Inputs extends KernelInputs, Attributes extends KernelAttributes>(
  kernelName: string,
  run: (inputs: Inputs, attributes: Attributes, storage: CpuStorage) => KernelResult,
): KernelConfig {
  return {
    kernelName,
    backendName: 'cpu',
    kernelFunc: ({ inputs, attrs, backend }) =>
      run(inputs as Inputs, (attrs ?? {}) as unknown as Attributes, cpuStorageOf(backend as object)),
  }
}

/** Defines the wasm form of a kernel. It must agree with the reference within the kernel's stated tolerance. */
export function wasmKernel<Inputs extends KernelInputs, Attributes extends KernelAttributes>(
  kernelName: string,
  run: (inputs: Inputs, attributes: Attributes, runtime: WasmRuntime) => KernelResult,
): KernelConfig {
  return {
    kernelName,
    backendName: 'wasm',
    kernelFunc: ({ inputs, attrs, backend }) =>
      run(inputs as Inputs, (attrs ?? {}) as unknown as Attributes, wasmRuntimeOf(backend as object)),
  }
}

/** Runs a kernel that returns one tensor. Throws `KernelBackendError` when it is not registered for the current backend. */
export function dispatch(
  kernelName: string,
  inputs: Record<string, Tensor>,
  attributes: KernelAttributes = {},
): Tensor {
  return run(kernelName, inputs, attributes) as Tensor
}

/** Runs a kernel that returns several tensors. */
export function dispatchMany(
  kernelName: string,
  inputs: Record<string, Tensor>,
  attributes: KernelAttributes = {},
): Tensor[] {
  return run(kernelName, inputs, attributes) as Tensor[]
}

/** Runs a kernel that writes into an input and returns nothing. */
export function dispatchInPlace(
  kernelName: string,
  inputs: Record<string, Tensor>,
  attributes: KernelAttributes = {},
): void {
  run(kernelName, inputs, attributes)
}

function run(kernelName: string, inputs: Record<string, Tensor>, attributes: KernelAttributes): Tensor | Tensor[] {
  const backend = getBackend()
  if (!getKernel(kernelName, backend)) {
    throw new KernelBackendError(
      `${kernelName} is not registered for the backend '${backend}'. Call \`await registerKernels('cpu')\` or \`('wasm')\` and set that backend.`,
    )
  }
  return engine().runKernel(kernelName, inputs, attributes as unknown as NamedAttrMap)
}
