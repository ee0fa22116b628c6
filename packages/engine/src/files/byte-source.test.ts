import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { blobSource, bytesSource, diskFolder, fileSource, readJson, urlFolder } from './byte-source'
import { errorCode } from './testing'

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-bytes-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))
const bytes = Uint8Array.from({ length: 100 }, (_, i) => i)
fs.writeFileSync(path.join(folder, 'file'), bytes)

describe('byte sources', () => {
  it.each([
    ['memory', async () => bytesSource(bytes)],
    ['a blob', async () => blobSource(new Blob([bytes]))],
    ['a file', () => fileSource(path.join(folder, 'file'))],
  ])('%s is read by range', async (_, make) => {
    const source = await make()
    expect(source.size).toBe(100)
    expect([...(await source.read(98, 2))]).toEqual([98, 99])
    expect((await source.read(100, 0)).length).toBe(0)
    expect(await errorCode(() => source.read(99, 2))).toBe('FILE_TRUNCATED')
    expect(await errorCode(() => source.read(-1, 2))).toBe('FILE_TRUNCATED')
  })

  it('refuses what is no file, and a file that changes', async () => {
    expect(await errorCode(() => fileSource(path.join(folder, 'absent')))).toBe('FILE_MISSING')
    expect(await errorCode(() => fileSource(folder))).toBe('FILE_MISSING')
    const changing = path.join(folder, 'changing')
    fs.writeFileSync(changing, bytes)
    const source = await fileSource(changing)
    fs.appendFileSync(changing, 'x')
    expect(await errorCode(() => source.read(0, 1))).toBe('FILE_CHANGED')
  })

  it('opens files of folders on disk and behind addresses', async () => {
    expect((await diskFolder(folder).open('file'))?.size).toBe(100)
    expect(await diskFolder(folder).open('absent')).toBeUndefined()
    const answers: Record<string, () => Response> = {
      '/m/config.json': () => new Response('{"a":1}'),
      '/m/broken': () => new Response('', { status: 500 }),
    }
    const fetcher = async (url: string | URL | Request) =>
      answers[new URL(String(url)).pathname]?.() ?? new Response('', { status: 404 })
    const remote = urlFolder('http://models.test/m', fetcher)
    const config = await remote.open('config.json')
    expect(config && (await readJson(config))).toEqual({ a: 1 })
    expect(await remote.open('absent')).toBeUndefined()
    expect(await errorCode(() => remote.open('broken'))).toBe('FILE_MISSING')
    expect(await errorCode(() => readJson(bytesSource(new TextEncoder().encode('[1]'))))).toBe('BAD_HEADER')
  })
})
