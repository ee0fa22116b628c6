// Registers kvloom's kernels with tfjs, when asked; importing this package registers nothing.
//
// HOW TO ADD A KERNEL
//  1. `assembly/<kernel>.ts`: AssemblyScript, `export function name(pointer: usize, ..., size: i32): void`; list it in
//     `assembly/index.ts`. Only load and store through pointers passed in: no allocation, no strings, no array literals,
//     no module-level `let` (the build refuses static data and globals: they would overwrite tfjs's memory).
//     No `export const`: asc crashes on it in the entry (put shared constants in `assembly/layout.ts`). SIMD helpers (exp4, sum4, max4) are in `assembly/math.ts`. Function names are unique over the whole module.
//     Then `pnpm build:wasm` (in packages/kernels), which also writes the functions' TypeScript types.
//  2. `src/<kernel>/reference.ts`: `export const xReference = cpuKernel<Inputs, Attributes>(name, (inputs, attributes, storage) => ...)`,
//     plain loops on typed arrays; this form defines the result. Kernel names are `Kvloom…`.
//  3. `src/<kernel>/wasm.ts`: `export const xWasm = wasmKernel<Inputs, Attributes>(name, (inputs, attributes, runtime) => ...)` with
//     `runtime.functions.x(runtime.pointerOf(inputs.a), ...)`. Outputs: `runtime.makeOutput(shape, dtype)` (contents undefined).
//     Scratch: `runtime.withScratch(bytes, (pointer) => ...)`. Take pointers after every allocation you make is done or before, both
//     work (tensors never move), but views (`runtime.float32(tensor)`) detach when memory grows: make them last.
//  4. `src/<kernel>/index.ts`: the public function. Check with `checkTensor` / `checkInteger` (shapes and dtypes only, never
//     values), then `dispatch` (one output), `dispatchMany` (several) or `dispatchInPlace` (writes into an input; both forms return `[]`).
//     Tensors shared by reshape share storage: an in-place write is seen by all of them.
//  5. List both forms below, export the public function by name in `src/index.ts`, and write `src/<kernel>/<kernel>.test.ts` with
//     `onBothBackends` of `src/testing.ts`: wasm against reference within a named tolerance, no leaks, wrong inputs refused.
import {
  findBackend,
  getBackend,
  getKernel,
  type KernelConfig,
  registerKernel,
  setBackend,
} from '@tensorflow/tfjs-core'
import { blockEncodeReference } from './affine/block-reference'
import { affineDecodeReference, affineEncodeReference, affineOverflowReference } from './affine/reference'
import { affineDecodeWasm, affineEncodeWasm, affineOverflowWasm, blockEncodeWasm } from './affine/wasm'
import { codebookDecodeReference, codebookEncodeReference } from './codebook/reference'
import { codebookDecodeWasm, codebookEncodeWasm } from './codebook/wasm'
import { KernelBackendError } from './errors'
import { hadamardReference } from './hadamard/reference'
import { hadamardWasm } from './hadamard/wasm'
import { hasNonFiniteReference } from './has-non-finite/reference'
import { hasNonFiniteWasm } from './has-non-finite/wasm'
import { throughLatentsReference } from './latents/reference'
import { throughLatentsWasm } from './latents/wasm'
import { embeddingRowsReference, matmulPackedReference, unpackWeightReference } from './matmul-packed/reference'
import { embeddingRowsWasm, matmulPackedWasm, unpackWeightWasm } from './matmul-packed/wasm'
import { attentionMassReference, pagedAttentionReference } from './paged-attention/reference'
import { attentionMassWasm, pagedAttentionWasm } from './paged-attention/wasm'
import { rmsNormReference } from './rms-norm/reference'
import { rmsNormWasm } from './rms-norm/wasm'
import { ropeReference } from './rope/reference'
import { ropeWasm } from './rope/wasm'
import { copyRowsReference, gatherRowsReference, readRowsReference, writeRowsReference } from './rows/reference'
import { copyRowsWasm, gatherRowsWasm, readRowsWasm, writeRowsWasm } from './rows/wasm'
import { readSegmentsReference } from './segment-rows/reference'
import { readSegmentsWasm } from './segment-rows/wasm'
import { selectTopReference } from './select-top/reference'
import { selectTopWasm } from './select-top/wasm'
import { mergeHeadsReference, splitHeadsReference } from './split-heads/reference'
import { mergeHeadsWasm, splitHeadsWasm } from './split-heads/wasm'
import { swiGluReference } from './swiglu/reference'
import { swiGluWasm } from './swiglu/wasm'
import { openWasmRuntime } from './wasm/runtime'

const referenceKernels: readonly KernelConfig[] = [
  matmulPackedReference,
  embeddingRowsReference,
  unpackWeightReference,
  rmsNormReference,
  ropeReference,
  splitHeadsReference,
  mergeHeadsReference,
  hasNonFiniteReference,
  swiGluReference,
  affineEncodeReference,
  blockEncodeReference,
  affineDecodeReference,
  affineOverflowReference,
  attentionMassReference,
  codebookDecodeReference,
  codebookEncodeReference,
  copyRowsReference,
  gatherRowsReference,
  hadamardReference,
  pagedAttentionReference,
  readRowsReference,
  readSegmentsReference,
  selectTopReference,
  throughLatentsReference,
  writeRowsReference,
]

const wasmKernels: readonly KernelConfig[] = [
  matmulPackedWasm,
  embeddingRowsWasm,
  unpackWeightWasm,
  rmsNormWasm,
  ropeWasm,
  splitHeadsWasm,
  mergeHeadsWasm,
  hasNonFiniteWasm,
  swiGluWasm,
  affineEncodeWasm,
  blockEncodeWasm,
  affineDecodeWasm,
  affineOverflowWasm,
  attentionMassWasm,
  codebookDecodeWasm,
  codebookEncodeWasm,
  copyRowsWasm,
  gatherRowsWasm,
  hadamardWasm,
  pagedAttentionWasm,
  readRowsWasm,
  readSegmentsWasm,
  selectTopWasm,
  throughLatentsWasm,
  writeRowsWasm,
]

/** Backends that have kernels. */
export type KernelBackend = 'cpu' | 'wasm'

/**
 * Registers all kernels of this package for one tfjs backend, loading and starting that backend when needed. Calling it again does nothing.
 * The current backend stays current; when there was none, this one becomes it.
 * @throws KernelBackendError when the backend cannot start, or is not the tested build
 */
export async function registerKernels(backend: KernelBackend): Promise<void> {
  await startBackend(backend)
  if (backend === 'wasm') await openWasmRuntime(findBackend('wasm'))
  for (const kernel of backend === 'wasm' ? wasmKernels : referenceKernels) {
    if (!getKernel(kernel.kernelName, backend)) registerKernel(kernel)
  }
}

// tfjs drops the first of two overlapping starts of a backend, so overlapping calls share one start.
const starting = new Map<KernelBackend, Promise<void>>()

function startBackend(name: KernelBackend): Promise<void> {
  if (findBackend(name)) return Promise.resolve()
  const known = starting.get(name)
  if (known) return known
  const start = loadBackend(name).finally(() => starting.delete(name))
  starting.set(name, start)
  return start
}

async function loadBackend(name: KernelBackend): Promise<void> {
  const previous = getBackend()
  let cause: unknown
  try {
    if (name === 'wasm') await import('@tensorflow/tfjs-backend-wasm')
    else await import('@tensorflow/tfjs-backend-cpu')
    await setBackend(name)
  } catch (error) {
    cause = error
  }
  if (!findBackend(name)) {
    const cure = name === 'wasm' ? ' In a browser, call setWasmPaths of @tensorflow/tfjs-backend-wasm first.' : ''
    throw new KernelBackendError(`The tfjs backend '${name}' did not start.${cure}`, { cause })
  }
  if (previous && previous !== name) await setBackend(previous)
}
