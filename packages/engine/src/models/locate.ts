// From what a caller wrote to a model on disk (Node). A path is taken as it is; a name is resolved, which may fetch it; anything else is
// told apart from a path that is wrong.
import fs from 'node:fs/promises'
import { ModelFileError, ResolveError } from '../errors'
import { findKnownModel, knownModels } from './known-models'
import type { ModelSource, ResolveOptions } from './resolve'

/** Where a model came from. */
export interface ModelOrigin {
  /** The name or path that was asked for. */
  readonly name: string
  readonly source: ModelSource
  /** A .gguf file, or a folder with config.json and safetensors. */
  readonly path: string
}

/** What of `ResolveOptions` loading takes. */
export type LocateOptions = Pick<ResolveOptions, 'cacheDir' | 'offline' | 'accessToken' | 'onProgress' | 'signal'>

/**
 * @param location a path, `tiny`, a name of `knownModels`, or `owner/repo[/file.gguf]` on the Hub
 * @throws ModelFileError('FILE_MISSING') where nothing is and that is no name; what `resolveModel` throws for a name
 */
export async function locateModel(location: string, options: LocateOptions = {}): Promise<ModelOrigin> {
  if (typeof location !== 'string' || location === '' || location.includes('\0')) return missing(location)
  const exists = await fs.stat(location).then(
    () => true,
    () => false,
  )
  if (exists) return { name: location, source: 'path', path: location }
  const named = location === 'tiny' || findKnownModel(location) !== undefined || isHubName(location)
  if (!named && !isPlainName(location)) return missing(location)
  const { resolveModel } = await import('./resolve')
  try {
    const { path, source } = await resolveModel(location, options)
    return { name: location, source, path }
  } catch (error) {
    // A word that is nobody's name is more likely a path with a mistake in it.
    if (!named && error instanceof ResolveError && error.code === 'NOT_FOUND') return missing(location)
    throw error
  }
}

/** What may be the name of a file in the model cache. */
const isPlainName = (location: string): boolean => /^\w[\w.-]*$/.test(location)

/** `owner/repo` or `owner/repo/path.gguf`. A file in a folder (`models/x.gguf`) is a path. */
const isHubName = (location: string): boolean =>
  /^\w[\w.-]*\/\w[\w.-]*(?:\/(?:\w[\w.-]*\/)*\w[\w.-]*\.gguf)?$/.test(location) &&
  !/^[^/]+\/[^/]+\.(?:gguf|safetensors|json)$/.test(location)

function missing(location: unknown): never {
  const names = ['tiny', ...knownModels.map((model) => model.name)].map((name) => `"${name}"`).join(', ')
  const given =
    typeof location === 'string' ? `model ${JSON.stringify(location)}` : `a location of type ${typeof location}`
  throw new ModelFileError('FILE_MISSING', {
    given: `${given}, where no file or folder is`,
    allowed: `a path to a .gguf file or a model folder, ${names}, owner/repo[/file.gguf] on the Hub, bytes as { file } or a folder as { folder }`,
    cure: 'Check the path or the name; resolveModel() says of a name where it was looked for.',
  })
}
