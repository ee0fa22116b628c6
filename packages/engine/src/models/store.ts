// The model cache on disk. Files appear under their final name only when whole and checked; beside each lies a record of where it
// came from. One process writes a file at a time; others wait for it.
//
//   CACHE/owner/repo/file.gguf             and file.gguf.json, its record
//   CACHE/owner/repo/                      a folder model; model.json lists its files and is written first: the folder is whole when
//                                          all of them are there
//   …/file.gguf.<etag>.partial             an unfinished download, continued by the next call
//   …/file.gguf.lock                       held while someone downloads
import fs from 'node:fs/promises'
import path from 'node:path'
import { ResolveError } from '../errors'
import { writeWhole } from '../files/write-whole'
import { isPlainPath } from './file-names'

/** What is happening, for progress displays. `totalBytes` is undefined where it is not known. */
export interface ResolveProgress {
  readonly phase: 'connecting' | 'waiting' | 'downloading' | 'extracting' | 'checking'
  /** Where from, in words. */
  readonly source: string
  readonly file: string
  readonly bytes: number
  readonly totalBytes: number | undefined
}

/** What every step of a download needs. */
export interface StoreContext {
  readonly onProgress: ((progress: ResolveProgress) => void) | undefined
  readonly signal: AbortSignal | undefined
}

/** The record beside a stored file. */
export interface FileRecord {
  /** Where it came from, in words. */
  readonly source: string
  readonly bytes: number
  readonly sha256: string
}

/** The record of a folder model: every file that belongs to it. */
export interface FolderRecord {
  readonly source: string
  /** `sha256` once the file is fetched. */
  readonly files: readonly { readonly path: string; readonly bytes: number; readonly sha256?: string | undefined }[]
}

const pollMilliseconds = 300
const staleMilliseconds = 20_000

/** What a place says that cannot hold files: not allowed, read-only, no folder can be made there, or no place at all. */
const unwritable = new Set(
  'EACCES EPERM EROFS ENOTDIR ENOENT EEXIST EISDIR ELOOP ENAMETOOLONG EINVAL ENXIO EIO'.split(' '),
)

/** File system errors that a user can mend, as typed errors; others as they are. */
export function storeError(error: unknown, place: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new ResolveError('NO_SPACE', {
      given: `a full disk at ${place}`,
      allowed: 'room for the model',
      cure: 'Free some space, or choose another cache folder; what is already fetched is kept and continued.',
      cause: error,
    })
  }
  if (typeof code === 'string' && unwritable.has(code)) {
    return new ResolveError('NO_PERMISSION', {
      given: `${place}, which cannot be written (${String(code)})`,
      allowed: 'a cache folder with write permission',
      cure: 'Change its permissions, or choose another cache folder.',
      cause: error,
    })
  }
  return error
}

/** Runs file system work with `storeError`. */
export async function storing<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw storeError(error, place)
  }
}

/** Throws `ResolveError('CANCELLED')` when the caller has given up. */
export function checkCancelled(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted)
    throw new ResolveError('CANCELLED', {
      given: `a cancelled request for ${what}`,
      allowed: 'a request that is waited for',
      cure: 'Ask again to continue where it stopped.',
      cause: signal.reason,
    })
}

/** Throws `ResolveError('NO_SPACE')` when the disk of `folder` has less than `bytes` left. */
export async function checkSpace(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await storing(folder, () => fs.statfs(folder))
  const free = bavail * bsize
  if (free >= bytes) return
  throw new ResolveError('NO_SPACE', {
    given: `${free} free bytes at ${folder}`,
    allowed: `at least ${bytes}`,
    cure: 'Free some space, or choose another cache folder.',
  })
}

/** Runs `work` while holding the lock of `target`; waits as long as another process holds it. The signal given to `work` also ends when the lock is lost. */
export async function withLock<T>(
  target: string,
  context: StoreContext,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { default: lockfile } = await import('proper-lockfile')
  await storing(path.dirname(target), () => fs.mkdir(path.dirname(target), { recursive: true }))
  const controller = new AbortController()
  const cancel = () => controller.abort(context.signal?.reason)
  let release: (() => Promise<void>) | undefined
  while (!release) {
    checkCancelled(context.signal, path.basename(target))
    try {
      release = await lockfile.lock(target, {
        realpath: false,
        stale: staleMilliseconds,
        onCompromised: (error) => controller.abort(error),
      })
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ELOCKED'))
        throw storeError(error, path.dirname(target))
      context.onProgress?.({
        phase: 'waiting',
        source: 'another process',
        file: path.basename(target),
        bytes: 0,
        totalBytes: undefined,
      })
      await new Promise((resolve) => setTimeout(resolve, pollMilliseconds))
    }
  }
  context.signal?.addEventListener('abort', cancel, { once: true })
  try {
    return await work(controller.signal)
  } finally {
    context.signal?.removeEventListener('abort', cancel)
    await release().catch(() => undefined) // a lock that was lost cannot be released
  }
}

/** Puts a finished file in its place and its record beside it. */
export async function place(finished: string, target: string, record: FileRecord): Promise<void> {
  await storing(target, async () => {
    await fs.rename(finished, target)
    await writeJson(recordPath(target), record)
  })
}

/** Where the record of a file lies. */
export const recordPath = (target: string) => `${target}.json`

/** Where the record of a folder model lies. */
export const folderRecordPath = (folder: string) => path.join(folder, 'model.json')

/** Writes JSON atomically. */
export const writeJson = (file: string, value: unknown): Promise<void> =>
  writeWhole(file, [new TextEncoder().encode(`${JSON.stringify(value, null, 1)}\n`)])

async function readRecord(file: string): Promise<Record<string, unknown> | undefined> {
  try {
    const value: unknown = JSON.parse(await fs.readFile(file, 'utf8'))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

/** A stored file. */
export interface StoredFile {
  readonly path: string
  readonly bytes: number
  /** From the record; undefined for a file that was put there by hand. */
  readonly sha256: string | undefined
  readonly source: string | undefined
}

/** The whole file at `target`, if there is one; a file whose size or hash is not that of its record, or not the one asked for, counts as absent. */
export async function storedFile(target: string, bytes?: number, sha256?: string): Promise<StoredFile | undefined> {
  const stat = await fs.stat(target).catch(() => undefined)
  if (!stat?.isFile() || (bytes !== undefined && stat.size !== bytes)) return undefined
  const record = await readRecord(recordPath(target))
  if (record && record['bytes'] !== stat.size) return undefined
  if (record && sha256 !== undefined && record['sha256'] !== sha256) return undefined
  const text = (key: string) => (typeof record?.[key] === 'string' ? record[key] : undefined)
  return { path: target, bytes: stat.size, sha256: text('sha256'), source: text('source') }
}

/** The whole folder model at `folder`, if there is one: every file of its record with the right size, or what was put there by hand. */
export async function storedFolder(folder: string): Promise<StoredFile | undefined> {
  const record = await readRecord(folderRecordPath(folder))
  const files = Array.isArray(record?.['files']) ? recordedFiles(record['files']) : await filesByHand(folder)
  if (!files || (await missingOf(folder, files))) return undefined
  let bytes = 0
  for (const file of files) bytes += (await fs.stat(path.join(folder, file.path))).size
  return {
    path: folder,
    bytes,
    sha256: undefined,
    source: typeof record?.['source'] === 'string' ? record['source'] : undefined,
  }
}

type FolderFile = { readonly path: string; readonly bytes: number | undefined }

/** Files of a record; undefined for a record that is none. */
function recordedFiles(files: readonly unknown[]): FolderFile[] | undefined {
  const isFile = (each: unknown): each is FolderFile => {
    const { path: name, bytes } = (each ?? {}) as Partial<Record<'path' | 'bytes', unknown>>
    return isPlainPath(name) && typeof bytes === 'number'
  }
  return files.length > 0 && files.every(isFile) ? [...files] : undefined
}

/** The first of the files that is not there, or not of its size. */
async function missingOf(folder: string, files: readonly FolderFile[]): Promise<string | undefined> {
  for (const file of files) {
    const stat = await fs.stat(path.join(folder, file.path)).catch(() => undefined)
    if (!stat || (file.bytes !== undefined && stat.size !== file.bytes)) return file.path
  }
  return undefined
}

/** What a folder whose download was not finished lacks; undefined for any other folder. */
export async function unfinishedFolder(folder: string): Promise<string | undefined> {
  const listed = (await readRecord(folderRecordPath(folder)))?.['files']
  return Array.isArray(listed) ? missingOf(folder, recordedFiles(listed) ?? []) : undefined
}

/**
 * Files of a folder without a record: a model with all shards that its index names. A download leaves unfinished files, or records
 * beside its files; such a folder is none that somebody put there.
 */
async function filesByHand(folder: string): Promise<FolderFile[] | undefined> {
  const names = await fs.readdir(folder).catch((): string[] => [])
  const has = (name: string) => names.includes(name)
  const fetched = names.some(
    (name) =>
      /\.(partial|lock)$/.test(name) || (/\.(json|jinja|safetensors)\.json$/.test(name) && has(name.slice(0, -5))),
  )
  if (fetched || !has('config.json') || !names.some((name) => name.endsWith('.safetensors'))) return undefined
  const index = has('model.safetensors')
    ? undefined
    : await readRecord(path.join(folder, 'model.safetensors.index.json'))
  const shards = Object.values(index?.['weight_map'] ?? {})
  return shards.every((shard) => has(String(shard)))
    ? names.map((name) => ({ path: name, bytes: undefined }))
    : undefined
}

/** Checks length and hash of a finished download; removes the file and throws where they are wrong. */
export async function checkFinished(
  file: string,
  given: { bytes: number; sha256: string },
  expected: { bytes: number | undefined; sha256: string | undefined },
  source: string,
): Promise<void> {
  const wrongSize = expected.bytes !== undefined && given.bytes !== expected.bytes
  const wrongHash = expected.sha256 !== undefined && given.sha256 !== expected.sha256
  if (!wrongSize && !wrongHash) return
  await fs.rm(file, { force: true })
  if (wrongSize) {
    throw new ResolveError('SIZE_MISMATCH', {
      given: `${given.bytes} bytes from ${source}`,
      allowed: `${expected.bytes} bytes`,
      cure: 'The download was removed; try again, or choose another source.',
    })
  }
  throw new ResolveError('HASH_MISMATCH', {
    given: `a file from ${source} with sha256 ${given.sha256}`,
    allowed: `sha256 ${expected.sha256}`,
    cure: 'The download was removed; try again, or choose another source.',
  })
}
