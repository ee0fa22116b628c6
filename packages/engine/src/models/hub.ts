// Models from the Hugging Face Hub into the cache: single files, and repositories with one model.
import fs from 'node:fs/promises'
import path from 'node:path'
import { fileDownloadInfo, type ListFileEntry, listFiles } from '@huggingface/hub'
import { ResolveError } from '../errors'
import { placeBelow } from './file-names'
import { address, asking, connection, type HubOptions, missingOnHub } from './hub-connection'
import { download } from './hub-download'
import {
  checkFinished,
  type FolderRecord,
  folderRecordPath,
  place,
  type StoredFile,
  storedFile,
  storedFolder,
  storing,
  withLock,
  writeJson,
} from './store'

/** A file of a repository. */
export interface HubFile {
  readonly repo: string
  readonly revision: string
  readonly file: string
  readonly bytes?: number | undefined
  readonly sha256?: string | undefined
}

/** Fetches one file into `target`, continuing what an earlier call left; returns at once when it is there. */
export async function fetchHubFile(wanted: HubFile, target: string, options: HubOptions): Promise<StoredFile> {
  return withLock(target, options, async (signal) => {
    const there = await storedFile(target, wanted.bytes, wanted.sha256)
    if (there) return there
    const file = path.basename(target)
    const source = `${wanted.repo} on the Hugging Face Hub`
    options.onProgress?.({ phase: 'connecting', source, file, bytes: 0, totalBytes: wanted.bytes })
    const request = { repo: wanted.repo, path: wanted.file, revision: wanted.revision, ...connection(options, signal) }
    const info = await asking(wanted.repo, options, () => fileDownloadInfo(request))
    if (!info) throw missingOnHub(`${wanted.repo}/${wanted.file}`)
    const etag = info.etag.replace(/^W\/|"/g, '')
    const sha256 = wanted.sha256 ?? (/^[0-9a-f]{64}$/.test(etag) ? etag : undefined)
    const partial = `${target}.${etag.replace(/[^0-9A-Za-z]/g, '').slice(0, 16)}.partial`
    await removeOtherPartials(target, partial)
    const digest = await download(partial, info, { ...request, xet: false }, source, file, options, signal)
    await checkFinished(partial, { bytes: info.size, sha256: digest }, { bytes: wanted.bytes, sha256 }, source)
    await place(partial, target, {
      source: `${address(options)}/${wanted.repo}@${wanted.revision}`,
      bytes: info.size,
      sha256: digest,
    })
    return { path: target, bytes: info.size, sha256: digest, source }
  })
}

async function removeOtherPartials(target: string, keep: string): Promise<void> {
  const folder = path.dirname(target)
  await storing(folder, async () => {
    for (const name of await fs.readdir(folder)) {
      const full = path.join(folder, name)
      if (name.startsWith(`${path.basename(target)}.`) && name.endsWith('.partial') && full !== keep)
        await fs.rm(full, { force: true })
    }
  })
}

/** A file of a listing, checked. */
interface ListedFile {
  readonly path: string
  readonly bytes: number
  readonly sha256: string | undefined
}

/** Throws `ResolveError('HUB_REFUSED')` for an entry without a name that stays in `folder`, a size, or a hash where there should be one. */
function listed(file: ListFileEntry, folder: string, source: string): ListedFile {
  placeBelow(folder, file.path, source)
  const bytes = file.lfs?.size ?? file.size
  const sha256 = file.lfs?.oid
  if (Number.isSafeInteger(bytes) && bytes >= 0 && (sha256 === undefined || /^[0-9a-f]{64}$/.test(sha256)))
    return { path: file.path, bytes, sha256 }
  throw new ResolveError('HUB_REFUSED', {
    given: `${source}, with a file ${JSON.stringify(file.path)} of no size or of a hash that is none`,
    allowed: 'a size in bytes and a sha256 of 64 hexadecimal digits',
    cure: 'Check the address of the Hub and any proxy between.',
  })
}

/** Files a folder model consists of. */
const folderFiles =
  /^(config|generation_config|tokenizer|tokenizer_config)\.json$|^chat_template\.jinja$|^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/

/**
 * Fetches the model of a whole repository: its config.json and safetensors as a folder, or its only GGUF file.
 * Throws `ResolveError('AMBIGUOUS')` naming the GGUF files where there are several.
 */
export async function fetchHubRepo(
  repo: string,
  revision: string,
  folder: string,
  options: HubOptions,
): Promise<StoredFile> {
  const source = `${repo} on the Hugging Face Hub`
  options.onProgress?.({ phase: 'connecting', source, file: repo, bytes: 0, totalBytes: undefined })
  const files = await asking(repo, options, async () => {
    const all: ListedFile[] = []
    const request = { repo, revision, ...connection(options, options.signal) }
    for await (const file of listFiles(request)) if (file?.type === 'file') all.push(listed(file, folder, source))
    return all
  })
  const names = files.map((file) => file.path)
  if (!names.includes('config.json') || !names.some((name) => name.endsWith('.safetensors'))) {
    const [only, ...others] = names.filter((name) => name.endsWith('.gguf'))
    if (only && others.length === 0)
      return fetchHubFile({ repo, revision, file: only }, placeBelow(folder, only, source), options)
    const choices = only
      ? [only, ...others].map((name) => `${repo}/${name}`).join(', ')
      : 'a repository with config.json and safetensors, or with a GGUF file'
    throw new ResolveError(only ? 'AMBIGUOUS' : 'NOT_FOUND', {
      given: only ? `${repo}, which holds ${others.length + 1} GGUF files` : `${repo}, which holds no model`,
      allowed: choices,
      cure: only ? 'Name one of them.' : 'Choose another repository.',
    })
  }
  const wanted = files.filter((each) => folderFiles.test(each.path))
  const writeRecord = (record: FolderRecord['files']) =>
    storing(folder, async () => {
      await fs.mkdir(folder, { recursive: true })
      await writeJson(folderRecordPath(folder), { source: `${address(options)}/${repo}@${revision}`, files: record })
    })
  // The record comes first, so that a folder whose download ends early is known for one.
  await writeRecord(wanted.map(({ path: file, bytes }) => ({ path: file, bytes })))
  const record: FolderRecord['files'][number][] = []
  for (const { path: file, bytes, sha256 } of wanted) {
    const stored = await fetchHubFile(
      { repo, revision, file, bytes, sha256 },
      placeBelow(folder, file, source),
      options,
    )
    record.push({ path: file, bytes, sha256: stored.sha256 })
  }
  await writeRecord(record)
  const stored = await storedFolder(folder)
  return (
    stored ??
    Promise.reject(
      new ResolveError('SIZE_MISMATCH', {
        given: `${folder}, which changed while it was fetched`,
        allowed: 'a cache folder that nothing else writes',
        cure: 'Ask again.',
      }),
    )
  )
}
