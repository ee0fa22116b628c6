// Random access to bytes, the same for a file on disk, a Blob and memory: readers take the ranges they need and nothing else enters the heap.
// Node builtins are default imports on purpose: browser bundlers replace them by an empty default, so that the rest of the package still loads.
import fs from 'node:fs/promises'
import path from 'node:path'
import { ModelFileError } from '../errors'

/** Bytes that can be read by range. */
export interface ByteSource {
  /** Name for messages: a path or a label. */
  readonly name: string
  /** Bytes in all. */
  readonly size: number
  /** Exactly `length` bytes from `offset`; throws `ModelFileError('FILE_TRUNCATED')` past the end. The result is the caller's unless the source is memory. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/** Files of one model folder by their plain name. */
export interface FileFolder {
  /** Name for messages. */
  readonly name: string
  /** The file, or undefined when there is none of that name. */
  open(file: string): Promise<ByteSource | undefined>
}

function checkRange(source: { name: string; size: number }, offset: number, length: number): void {
  if (offset >= 0 && length >= 0 && offset + length <= source.size) return
  throw new ModelFileError('FILE_TRUNCATED', {
    given: `bytes ${offset} to ${offset + length} of ${source.name}, which has ${source.size}`,
    allowed: `at most ${source.size} bytes`,
    cure: 'The file is cut short; fetch it again.',
  })
}

/** A source over bytes in memory; reads are views, not copies. */
export function bytesSource(bytes: Uint8Array, name = 'bytes in memory'): ByteSource {
  const size = bytes.byteLength
  return {
    name,
    size,
    async read(offset, length) {
      checkRange({ name, size }, offset, length)
      return bytes.subarray(offset, offset + length)
    },
  }
}

/** A source over a Blob or a File of a browser. */
export function blobSource(blob: Blob, name = 'blob'): ByteSource {
  const { size } = blob
  return {
    name,
    size,
    async read(offset, length) {
      checkRange({ name, size }, offset, length)
      return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer())
    },
  }
}

/** A source over a file on disk (Node). The file is opened for each read, so nothing needs closing. */
export async function fileSource(file: string): Promise<ByteSource> {
  const size = (await statFile(file)).size
  return {
    name: file,
    size,
    async read(offset, length) {
      checkRange({ name: file, size }, offset, length)
      const handle = await fs.open(file, 'r')
      try {
        const now = (await handle.stat()).size
        if (now !== size) {
          throw new ModelFileError('FILE_CHANGED', {
            given: `${file}, which had ${size} bytes when opened and now has ${now}`,
            allowed: 'a file that stays as it is while it is read',
            cure: 'Open it again once nothing writes to it.',
          })
        }
        const bytes = new Uint8Array(length)
        let filled = 0
        while (filled < length) {
          const { bytesRead } = await handle.read(bytes, filled, Math.min(length - filled, 1 << 30), offset + filled)
          if (bytesRead === 0) checkRange({ name: file, size: offset + filled }, offset, length)
          filled += bytesRead
        }
        return bytes
      } finally {
        await handle.close()
      }
    },
  }
}

async function statFile(file: string) {
  try {
    const stat = await fs.stat(file)
    if (stat.isFile()) return stat
  } catch (cause) {
    throw new ModelFileError('FILE_MISSING', {
      given: file,
      allowed: 'a file that can be read',
      cure: 'Check the path and its permissions.',
      cause,
    })
  }
  throw new ModelFileError('FILE_MISSING', {
    given: `${file}, which is not a file`,
    allowed: 'a file that can be read',
    cure: 'Give the path of a file.',
  })
}

/** A folder on disk (Node). */
export function diskFolder(folder: string): FileFolder {
  return {
    name: folder,
    async open(file) {
      const full = path.join(folder, file)
      const exists = await fs.stat(full).then(
        (stat) => stat.isFile(),
        () => false,
      )
      return exists ? fileSource(full) : undefined
    },
  }
}

/** A folder behind an URL (browser): each file is fetched whole, once. `404` means there is no such file. */
export function urlFolder(base: string | URL, fetcher: typeof fetch = fetch): FileFolder {
  const opened = new Map<string, Promise<ByteSource | undefined>>()
  const root = String(base).endsWith('/') ? String(base) : `${String(base)}/`
  const load = async (file: string): Promise<ByteSource | undefined> => {
    const response = await fetcher(root + file)
    if (response.status === 404) return undefined
    if (!response.ok) {
      throw new ModelFileError('FILE_MISSING', {
        given: `${root + file} answered ${response.status}`,
        allowed: 'an answer of 200',
        cure: 'Check the address.',
      })
    }
    return bytesSource(new Uint8Array(await response.arrayBuffer()), root + file)
  }
  return {
    name: root,
    open(file) {
      const source = opened.get(file) ?? load(file)
      opened.set(file, source)
      source.catch(() => opened.delete(file)) // a failure is not kept: the next call asks again
      return source
    },
  }
}

/** The whole source as text. */
export async function readText(source: ByteSource): Promise<string> {
  return new TextDecoder().decode(await source.read(0, source.size))
}

/** The whole source as a JSON object; anything else is `ModelFileError('BAD_HEADER')`. */
export async function readJson(source: ByteSource): Promise<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(await readText(source))
  } catch (cause) {
    if (cause instanceof ModelFileError) throw cause
    throw new ModelFileError('BAD_HEADER', {
      given: `${source.name}, which is not JSON`,
      allowed: 'a JSON object',
      cure: 'The file is damaged; fetch it again.',
      cause,
    })
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new ModelFileError('BAD_HEADER', {
    given: `${source.name}, which holds no JSON object`,
    allowed: 'a JSON object',
    cure: 'The file is damaged; fetch it again.',
  })
}
