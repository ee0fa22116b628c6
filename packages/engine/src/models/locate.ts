// From what a caller wrote to a path on disk (Node). A path is taken as it is; a short name is resolved; anything else is told apart from
// a path that is wrong, with the call that would find it.
import fs from 'node:fs/promises'
import { ModelFileError } from '../errors'
import { findKnownModel, knownModels } from './known-models'

/**
 * @param location a path, `tiny`, or a name of `knownModels`
 * @throws ModelFileError('file-missing') where nothing is; what `resolveModel` throws for a short name
 */
export async function pathOfModel(location: string): Promise<string> {
  if (typeof location !== 'string' || location === '' || location.includes('\0')) return missing(location)
  const exists = await fs.stat(location).then(
    () => true,
    () => false,
  )
  if (exists) return location
  if (location !== 'tiny' && !findKnownModel(location)) return missing(location)
  const { resolveModel } = await import('./resolve')
  return (await resolveModel(location)).path
}

function missing(location: unknown): never {
  const names = ['tiny', ...knownModels.map((model) => model.name)].map((name) => `"${name}"`).join(', ')
  const given = typeof location === 'string' ? JSON.stringify(location) : `a location of type ${typeof location}`
  const onHub = typeof location === 'string' && /^\w[\w.-]*\/\w[\w.-]*(\/.+\.gguf)?$/.test(location)
  throw new ModelFileError('file-missing', {
    given: `${given}, where no file or folder is`,
    allowed: `a path to a .gguf file or a model folder, ${names}, bytes as { file } or a folder as { folder }`,
    cure: onHub
      ? `For a model of the Hub: const { path } = await resolveModel(${given}), then give that path.`
      : 'Check the path; resolveModel() finds models of the Hub by name and gives their path.',
  })
}
