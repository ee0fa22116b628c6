// One file from the Hub into a partial file: plain HTTP with ranges, so that a dropped connection is continued and not begun again.
import crypto from 'node:crypto'
import fs from 'node:fs/promises'
import path from 'node:path'
import { downloadFile, type FileDownloadInfoOutput, HubApiError } from '@huggingface/hub'
import { ResolveError } from '../errors'
import { type HubOptions, hubError, missingOnHub, patientFetch, RangeIgnored } from './hub-connection'
import { checkCancelled, checkSpace, storing } from './store'

const attempts = 3 // in a row that bring nothing
const pauseMilliseconds = 200

/** Fills `partial` up to the whole file and returns its sha256; tries again while each attempt brings something. */
export async function download(
  partial: string,
  info: FileDownloadInfoOutput,
  request: Parameters<typeof downloadFile>[0],
  source: string,
  file: string,
  options: HubOptions,
  signal: AbortSignal,
): Promise<string> {
  const handle = await storing(partial, () => fs.open(partial, 'a+'))
  try {
    let hash = crypto.createHash('sha256')
    let have = (await handle.stat()).size
    const startOver = async () => {
      await handle.truncate(0)
      hash = crypto.createHash('sha256')
      have = 0
    }
    if (have > info.size) await startOver()
    for (let at = 0; at < have; ) {
      const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(1 << 20), 0, Math.min(1 << 20, have - at), at)
      hash.update(buffer.subarray(0, bytesRead))
      at += bytesRead
    }
    await checkSpace(path.dirname(partial), info.size - have)
    const report = () =>
      options.onProgress?.({ phase: 'downloading', source, file, bytes: have, totalBytes: info.size })
    report()
    for (let failures = 0; have < info.size; ) {
      const before = have
      try {
        for await (const chunk of chunks(request, info, have, options, signal)) {
          await storing(partial, () => handle.appendFile(chunk))
          hash.update(chunk)
          have += chunk.byteLength
          report()
        }
        if (have < info.size) throw new Error(`the connection ended after ${have} of ${info.size} bytes`)
      } catch (error) {
        checkCancelled(options.signal, file)
        signal.throwIfAborted()
        if (error instanceof ResolveError || error instanceof HubApiError) throw hubError(error, source)
        failures = have > before ? 1 : failures + 1
        if (failures >= attempts) {
          throw new ResolveError('UNFINISHED', {
            given: `a connection that broke after ${have} of ${info.size} bytes of ${file}`,
            allowed: 'a connection that lasts',
            cure: 'Ask again; the download continues where it stopped.',
            cause: error,
          })
        }
        // A server without ranges cannot continue; what it sends again must not be counted as progress twice.
        if (error instanceof RangeIgnored) {
          await startOver()
          failures = attempts - 1
        }
        await new Promise((resolve) => setTimeout(resolve, pauseMilliseconds * failures))
      }
    }
    await storing(partial, () => handle.sync())
    return hash.digest('hex')
  } finally {
    await handle.close()
  }
}

/** The bytes from `start` to the end; fails when nothing comes for too long. */
async function* chunks(
  request: Parameters<typeof downloadFile>[0],
  info: FileDownloadInfoOutput,
  start: number,
  options: HubOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  // The library turns errors of the request into text; keep the original.
  let failure: unknown
  const fetcher: typeof fetch = async (input, init) => {
    try {
      return await patientFetch(options, signal)(input, init)
    } catch (error) {
      failure = error
      throw error
    }
  }
  const blob = await downloadFile({ ...request, downloadInfo: info, fetch: fetcher })
  if (!blob) throw missingOnHub(request.path)
  const reader = blob.slice(start, info.size).stream().getReader()
  try {
    for (;;) {
      const { done, value } = await withTimeout(reader.read(), options.stallMilliseconds)
      if (done) return
      yield value
    }
  } catch (error) {
    throw failure ?? error
  } finally {
    await reader.cancel().catch(() => undefined) // already broken: nothing to cancel
  }
}

async function withTimeout<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${milliseconds} ms`)), milliseconds)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}
