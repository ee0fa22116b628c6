import {
  engine,
  findBackend,
  getBackend,
  getKernel,
  getKernelsForBackend,
  removeBackend,
  setBackend,
  tensor,
} from '@tensorflow/tfjs-core'
import { beforeEach, expect, test } from 'vitest'
import { KernelBackendError } from './errors'
import { hasNonFinite, registerKernels } from './index'
import { openWasmRuntime, wasmRuntimeOf } from './wasm/runtime'

beforeEach(async () => {
  await registerKernels('cpu')
  await setBackend('cpu')
})

test('leaves the current backend alone and may be repeated', async () => {
  await Promise.all([registerKernels('wasm'), registerKernels('wasm')])
  expect(getBackend()).toBe('cpu')
  const names = getKernelsForBackend('wasm').map((kernel) => kernel.kernelName)
  await registerKernels('wasm')
  expect(getKernelsForBackend('wasm').map((kernel) => kernel.kernelName)).toEqual(names)
})

test('every kernel exists for both backends', async () => {
  await registerKernels('wasm')
  const ours = (backend: string): string[] =>
    getKernelsForBackend(backend)
      .map((kernel) => kernel.kernelName)
      .filter((name) => name.startsWith('Kvloom'))
      .sort()
  expect(ours('wasm')).toEqual(ours('cpu'))
  expect(getKernel('KvloomSwiGlu', 'wasm')).toBeDefined()
})

test('a kernel that is not registered says what to call', () => {
  engine().registerBackend('other', () => findBackend('cpu'))
  engine().setBackend('other')
  const x = tensor([1])
  expect(() => hasNonFinite(x)).toThrow(KernelBackendError)
  expect(() => hasNonFinite(x)).toThrow(/not registered for the backend 'other'.*registerKernels/)
  x.dispose()
})

test('a wasm backend of another build is named', async () => {
  await expect(openWasmRuntime({ wasm: {}, makeOutput() {} })).rejects.toThrow(
    /no wasm\.asm\.memory, dataIdMap, disposeData.*4\.22\.0/,
  )
  expect(() => wasmRuntimeOf({})).toThrow(KernelBackendError)
  const threaded = {
    wasm: { asm: { memory: { buffer: new SharedArrayBuffer(8) } } },
    dataIdMap: { get() {} },
    makeOutput() {},
    disposeData() {},
  }
  await expect(openWasmRuntime(threaded)).rejects.toThrow(/WASM_HAS_MULTITHREAD_SUPPORT/)
})

test('a backend that cannot start is refused', async () => {
  await registerKernels('wasm')
  removeBackend('wasm')
  await expect(registerKernels('wasm')).rejects.toThrow(KernelBackendError)
})
