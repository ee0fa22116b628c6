/** Rows that are coded when they leave the device come back bit for bit, with payloads as long as they turn out. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { compose, onLayers } from '../../compose'
import type { KVCompressor, Lossless } from '../../contract'
import { defineLossless } from '../../define-lossless'
import { SerializedCacheError } from '../../errors'
import { blocks, bytesOf, dense, feed, model, rows } from '../../testing/cache-toys'
import { pairs } from '../../testing/stage-toys'
import { openCache } from '../open'
import { restoreCache } from './restore'

beforeAll(async () => {
  await tf.setBackend('wasm')
  await tf.ready()
  await registerKernels('wasm')
})

/** Drops the zero bytes and says in a bit map where they were. What it makes of a tensor has no fixed length. */
const sparse: Lossless = {
  encode({ values }) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    const map = new Uint8Array(Math.ceil(bytes.length / 8))
    bytes.forEach((byte, i) => {
      if (byte !== 0) map[i >> 3] = (map[i >> 3] ?? 0) | (1 << (i & 7))
    })
    return Uint8Array.of(...map, ...bytes.filter((byte) => byte !== 0))
  },
  decode(coded, { shape, dtype }) {
    const size = shape.reduce((a, b) => a * b, 1) * 4
    const bytes = new Uint8Array(size)
    let at = Math.ceil(size / 8)
    for (let i = 0; i < size; i++) if (((coded[i >> 3] ?? 0) >> (i & 7)) & 1) bytes[i] = coded[at++] ?? 0
    return { shape, values: dtype === 'int32' ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer) }
  },
}
const toy = (codec: Lossless = sparse): KVCompressor =>
  defineLossless({ name: 'toy', options: {}, codec: () => codec })()
const decoding = (n: number) => new Array<number>(n).fill(1)

describe('lossless codes', () => {
  it.each<[string, () => KVCompressor]>([
    ['exact rows', () => dense],
    ['blocks', () => blocks()],
    ['rows with metadata', () => rows()],
  ])('%s go on alike after they were saved, whether they were coded or not', async (_, make) => {
    const files: number[] = []
    const ends: Float32Array[] = []
    for (const compressor of [make(), compose(make(), toy()), compose(make(), onLayers([1], toy()))]) {
      const cache = openCache(model, compressor)
      await feed(cache, [40, 20, ...decoding(9)], (i) => (i < 2 ? 'promptEnd' : 'decode'))
      const file = await bytesOf(cache)
      files.push(file.length)
      const again = restoreCache(model, compressor, file)
      expect(await bytesOf(again)).toEqual(file)
      expect(again.bytes()).toMatchObject({ payload: cache.bytes().payload, window: cache.bytes().window })
      ends.push(await feed(again, [3, 1], () => 'decode', 50))
      expect(await feed(cache, [3, 1], () => 'decode', 50)).toEqual(ends.at(-1))
      for (const each of [cache, again]) each.dispose()
    }
    expect(ends[1]).toEqual(ends[0])
    expect(ends[2]).toEqual(ends[0])
    // A code is as long as it turns out: shorter for rows whose pages have unused places, longer for codes without a zero byte.
    expect(new Set(files).size).toBe(3)
  })

  it.each([{ layers: [0] }, { layers: [1] }, { layers: [0, 1] }])(
    'in layers $layers of a group, which share pages, are read as they were written',
    async ({ layers }) => {
      const plain = openCache(model, pairs())
      const expected = await feed(plain, [40, ...decoding(9)])
      plain.dispose()
      const compressor = compose(pairs(), onLayers(layers, toy()))
      const cache = openCache(model, compressor)
      expect(await feed(cache, [40, ...decoding(9)])).toEqual(expected)
      const file = await bytesOf(cache)
      const again = restoreCache(model, compressor, file)
      expect(await bytesOf(again)).toEqual(file)
      expect(await feed(again, [3, 1], () => 'decode', 50)).toEqual(await feed(cache, [3, 1], () => 'decode', 50))
      for (const each of [cache, again]) each.dispose()
    },
  )

  it('that decode to something else are refused, and so is a file without codes', async () => {
    const cache = openCache(model, compose(blocks(), toy()))
    await feed(cache, [40])
    const file = await bytesOf(cache)
    cache.dispose()
    const before = tf.memory().numTensors
    const short: Lossless = { ...sparse, decode: (_, { shape }) => ({ shape, values: new Int32Array(3) }) }
    const broken: Lossless = {
      ...sparse,
      decode: () => {
        throw new Error('no such code')
      },
    }
    for (const codec of [short, broken])
      expect(() => restoreCache(model, compose(blocks(), toy(codec)), file)).toThrow(SerializedCacheError)
    expect(tf.memory().numTensors).toBe(before)
  })
})
