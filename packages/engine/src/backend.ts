// Chooses the tfjs backend that models run on, and makes it ready with kvloom's kernels.
import { type KernelBackend, registerKernels } from '@kvloom/kernels'
import { env, ready, setBackend } from '@tensorflow/tfjs-core'
import { EngineError } from './errors'

/** Backends the engine runs on: `cpu` is the plain reference, `wasm` the fast one. */
export const engineBackends = ['cpu', 'wasm'] as const

/** A backend the engine runs on. */
export type EngineBackend = (typeof engineBackends)[number] & KernelBackend

/** The tfjs backend is unknown or did not start. */
export class BackendError extends EngineError<'UNKNOWN_BACKEND' | 'BACKEND_FAILED'> {
  override readonly name = 'BackendError'
}

/**
 * Makes `backend` the current tfjs backend, with kvloom's kernels registered. Calling it again is cheap.
 * The wasm backend runs single-threaded with SIMD: kvloom's kernels need memory that is not shared.
 * In Node the wasm files are found in the npm package; in a browser call tfjs's `setWasmPaths` first.
 * @throws BackendError
 */
export async function useBackend(backend: EngineBackend): Promise<void> {
  if (!engineBackends.includes(backend)) {
    throw new BackendError('UNKNOWN_BACKEND', {
      given: `backend "${String(backend)}"`,
      allowed: engineBackends.join(', '),
      cure: 'Choose one of these.',
    })
  }
  try {
    if (backend === 'wasm') await import('@tensorflow/tfjs-backend-wasm').then(useOneThread)
    await registerKernels(backend)
    if (await setBackend(backend)) return await ready()
  } catch (cause) {
    throw failed(backend, cause)
  }
  throw failed(backend)
}

/** Only before the backend starts; a running one keeps what it has, and the kernels refuse shared memory themselves. */
function useOneThread(wasm: { setThreadsCount(count: number): void }): void {
  wasm.setThreadsCount(1)
  env().set('WASM_HAS_MULTITHREAD_SUPPORT', false)
}

function failed(backend: string, cause?: unknown): BackendError {
  return new BackendError('BACKEND_FAILED', {
    given: `the tfjs backend "${backend}", which did not start${cause instanceof Error ? ` (${cause.message})` : ''}`,
    allowed: 'an environment that can run it',
    cure:
      backend === 'wasm'
        ? 'Check that the .wasm files can be reached, or use "cpu".'
        : 'Install @tensorflow/tfjs-backend-cpu ~4.22.0.',
    cause,
  })
}
