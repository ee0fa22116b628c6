import {
  cast,
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
import { attentionMass, hasNonFinite, registerKernels } from './index'
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

test('numbers that a cast left as bytes are read on the cpu backend', async () => {
  const chosen = cast(tensor([[1, 0, 1]], [1, 3], 'bool'), 'int32')
  const sums = attentionMass({
    queries: [tensor([[[0]]])],
    keys: [{ layout: { kind: 'dense', store: 'f32' }, tensors: [tensor([[[7], [7], [7]]])], from: 0, rows: 3 }],
    kvHeads: 1,
    scale: 1,
    causal: false,
    reduce: 'sum',
    live: chosen,
  })
  expect([...(await sums.data())]).toEqual([0.5, 0, 0.5])
  expect([...(await hasNonFinite(cast(chosen, 'float32')).data())]).toEqual([0])
  chosen.dispose()
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
