/** What a cache makes of a file that lies. */
import { registerKernels } from '@kvloom/kernels'
import { sha256 } from '@noble/hashes/sha2.js'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { ready } from '../../artifacts'
import { compose } from '../../compose'
import { KvloomError, SerializedCacheError } from '../../errors'
import { blocks, bytesOf, feed, model, recentOnly } from '../../testing/cache-toys'
import { openCache } from '../open'
import { DIGEST_BYTES, MAGIC } from './format'
import { restoreCache } from './restore'

beforeAll(async () => {
  await tf.setBackend('wasm')
  await tf.ready()
  await registerKernels('wasm')
})

describe('a file that lies', () => {
  /** A right checksum over a changed header. */
  const forged = (file: Buffer, change: (header: Record<string, unknown>) => unknown): Uint8Array => {
    const at = MAGIC.length + 8
    const length = file.readUInt32LE(MAGIC.length + 4)
    const header: unknown = change(JSON.parse(file.subarray(at, at + length).toString()) as Record<string, unknown>)
    const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
    const start = Buffer.from(file.subarray(0, at))
    start.writeUInt32LE(json.length, MAGIC.length + 4)
    const body = Buffer.concat([start, json, file.subarray(at + length, file.length - DIGEST_BYTES)])
    return Buffer.concat([body, sha256(body)])
  }
  const at = (value: unknown, path: readonly (string | number)[]): unknown =>
    path.reduce<unknown>((v, key) => (v as Record<string | number, unknown>)[key], value)
  /** Every place of a JSON value. */
  const places = (value: unknown, path: readonly (string | number)[] = []): (readonly (string | number)[])[] =>
    typeof value === 'object' && value !== null
      ? [
          path,
          ...Object.entries(value).flatMap(([key, v]) =>
            places(v, [...path, Array.isArray(value) ? Number(key) : key]),
          ),
        ]
      : [path]

  it('is refused by name, and leaves nothing behind, whatever of its header is wrong', async () => {
    const compressor = compose(recentOnly({ recent: 60 }), blocks())
    const cache = openCache(model, compressor)
    await feed(cache, [40, 40, 20, ...new Array<number>(9).fill(1)])
    const file = await bytesOf(cache)
    cache.dispose()
    const before = tf.memory()
    const [bytes, tensors] = [before.numBytes, before.numTensors]
    const header: unknown = JSON.parse(
      file.subarray(MAGIC.length + 8, MAGIC.length + 8 + file.readUInt32LE(MAGIC.length + 4)).toString(),
    )
    const all = places(header).filter((path) => path.length > 0)
    const wrong = fc.oneof(
      fc.constantFrom(null, -1, 0.5, 1e9, 2 ** 40, '', 'x', [], {}, true, [[[1]]], { __proto__: null }),
      fc.integer(),
      fc.jsonValue(),
    )
    let refused = 0
    fc.assert(
      fc.property(fc.constantFrom(...all), wrong, (path, value) => {
        const changed = forged(file, (h) => {
          const parent = at(h, path.slice(0, -1)) as Record<string | number, unknown>
          parent[path.at(-1) as string | number] = value
          return h
        })
        try {
          restoreCache(model, ready(compressor), changed).dispose()
        } catch (error) {
          if (!(error instanceof KvloomError)) throw error
          refused++
        }
        return tf.memory().numBytes === bytes && tf.memory().numTensors === tensors
      }),
      { seed: 8, numRuns: 400 },
    )
    expect(refused).toBeGreaterThan(200)
    for (const text of ['', '{', 'null', '[]', '['.repeat(50_000) + ']'.repeat(50_000)])
      expect(() =>
        restoreCache(
          model,
          ready(compressor),
          forged(file, () => text),
        ),
      ).toThrow(KvloomError)
    const long = Buffer.from(file.subarray(0, file.length - DIGEST_BYTES))
    long.writeUInt32LE(0xffffff, MAGIC.length + 4)
    expect(() => restoreCache(model, ready(compressor), Buffer.concat([long, sha256(long)]))).toThrow(
      /longer than the file/,
    )
  })

  it('is refused when it is read, and not by a later step, where pages are not what the cache reads', async () => {
    const compressor = compose(recentOnly({ recent: 60 }), blocks())
    const cache = openCache(model, compressor)
    await feed(cache, [40, 40, 20, ...new Array<number>(9).fill(1)])
    const file = await bytesOf(cache)
    cache.dispose()
    const { numBytes, numTensors } = tf.memory()
    type Page = { sealed: boolean; stored: { block: Record<string, { shape: number[] }> } }
    const pagesOf = (h: Record<string, unknown>) => h['pages'] as Page[]
    let pages: Page[] = []
    forged(file, (h) => {
      pages = pagesOf(h)
      return h
    })
    // Each changes a page and leaves every tensor as long as it was.
    const changes: readonly ((page: Page) => void)[] = [
      (page) => {
        page.sealed = !page.sealed
      },
      ({ stored }) => {
        for (const { shape } of Object.values(stored.block)) shape.push(1)
      },
      ({ stored }) => {
        for (const { shape } of Object.values(stored.block)) shape.splice(0, 3, 1, shape[1] ?? 0, 2 * (shape[2] ?? 0))
      },
    ]
    expect(pages.length).toBeGreaterThan(8)
    for (const number of pages.keys())
      for (const change of changes) {
        const changed = forged(file, (h) => {
          change(pagesOf(h)[number] as Page)
          return h
        })
        expect(() => restoreCache(model, ready(compressor), changed)).toThrow(SerializedCacheError)
      }
    expect(tf.memory()).toMatchObject({ numBytes, numTensors })
  })
})
