// Names of files that somebody else gives: a listing of the Hub, an index of shards. None may lead out of the folder it is for, on any system.
import path from 'node:path'
import { ResolveError } from '../errors'

/**
 * Is this a relative path of plain names? Refused are empty names, `.` and `..` (Windows drops dots and spaces at the end of a name, so
 * these too), backslashes, drive letters and streams (`:`), control characters, and absolute paths.
 */
export function isPlainPath(name: unknown): name is string {
  return typeof name === 'string' && name.split('/').every((part) => /^[^\\:\p{Cc}]*[^\\:\p{Cc}. ]$/u.test(part))
}

/** A place in `folder` for a file of this name. Throws `ResolveError('HUB_REFUSED')` for a name that leads elsewhere. */
export function placeBelow(folder: string, name: unknown, source: string): string {
  if (isPlainPath(name)) return path.join(folder, name)
  throw new ResolveError('HUB_REFUSED', {
    given: `${source}, with a file named ${typeof name === 'string' ? JSON.stringify(name.slice(0, 200)) : `by ${typeof name}`}`,
    allowed: 'relative paths of plain names, as in weights/model.gguf',
    cure: 'Nothing was stored. Check the repository and the address of the Hub.',
  })
}
