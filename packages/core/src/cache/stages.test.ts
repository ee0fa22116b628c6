/** Every stage kind with a lossless toy: the cache must then attend as a plain one, and count and keep what it holds. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { ready } from '../artifacts'
import { compose, exceptLayers, ownRows, window } from '../compose'
import type { KVCache, KVCompressor, Phase, Stage } from '../contract'
import { defineMethod } from '../define'
import { evenWindows } from '../merge-zones'
import {
  dense,
  exact,
  guess,
  model,
  oldest,
  pairs,
  permute,
  random,
  recall,
  reverse,
  share,
} from '../testing/stage-toys'
import { restoreCache } from './file/restore'
import { openCache } from './open'

interface Run {
  readonly outputs: readonly Float32Array[]
  readonly cache: KVCache
}
/** Prompt in two chunks, then single tokens. `twins`: layers whose rows equal those of the layer before. */
async function run(
  compressor: KVCompressor,
  o: { prompt?: number[]; decode?: number; twins?: boolean; from?: KVCache; at?: number } = {},
): Promise<Run> {
  const { prompt = [13, 9], decode = 22, twins = false } = o
  const cache = o.from ?? openCache(model, ready(compressor))
  const outputs: Float32Array[] = []
  let at = o.at ?? 0
  const steps: [number, Phase][] = [
    ...prompt.map((n, i): [number, Phase] => [n, i === prompt.length - 1 ? 'promptEnd' : 'prompt']),
    ...Array.from({ length: decode }, (): [number, Phase] => [1, 'decode']),
  ]
  for (const [n, phase] of steps) {
    cache.begin(
      Int32Array.from({ length: n }, (_, i) => at + i),
      phase,
    )
    for (let layer = 0; layer < model.layers; layer++) {
      const seed = (part: number, l: number) => 1 + part + 10 * (twins ? l - (l % 2) : l) + 1000 * at
      const make = (heads: number, dim: number, s: number) => {
        const { shape, values } = random(s, [heads, n, dim])
        return tf.tensor(values, [...shape])
      }
      const queries = make(4, 16, 5 + 10 * layer + 1000 * at)
      const keys = make(2, 16, seed(2, layer))
      const values = make(2, 24, seed(3, layer))
      const out = await cache.attend(
        layer,
        cache.sourceLayer(layer) === layer ? { queries, keys, values } : { queries },
      )
      outputs.push((await out.data()) as Float32Array)
      tf.dispose([queries, keys, values, out])
    }
    await cache.commit()
    at += n
  }
  return { outputs, cache }
}
const furthest = (a: readonly Float32Array[], b: readonly Float32Array[]): number =>
  Math.max(...a.map((x, i) => Math.max(...x.map((v, j) => Math.abs(v - (b[i]?.[j] ?? Number.NaN))))))

const collect = async (bytes: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
  const pieces: Uint8Array[] = []
  for await (const piece of bytes) pieces.push(piece)
  return new Uint8Array(Buffer.concat(pieces))
}

/** f32 sums in another order. */
const TOLERANCE = 3e-6

const lossless: Readonly<Record<string, () => KVCompressor>> = {
  'quantize, keys before RoPE': () => exact(),
  'quantize, heads merged': () => exact({ merged: 'yes' }),
  predict: () => compose(guess(false), exact()),
  'predict, reconstructions kept': () => compose(guess(true), exact()),
  'transform before RoPE, shared latents': () => permute(),
  'transform and quantize': () =>
    window({ sinks: 2 }, compose(permute(), window(evenWindows({ sinks: 2, block: 8, drain: 'all' }), exact()))),
  'transform, predict and quantize': () => window({ sinks: 2 }, compose(permute(), guess(false), exact())),
  'transform after RoPE, fitted on the prompt': () => reverse(),
  'transform on some layers': () => exceptLayers([1], permute()),
  'rows read as stored': () => ownRows('stored', permute({ block: 1 })),
  'recall of everything': () => compose(recall({ tier: 'device', budget: 1000 }), exact()),
}

for (const backend of ['cpu', 'wasm'] as const)
  describe(`stages on ${backend}`, () => {
    beforeAll(async () => {
      await registerKernels(backend)
      await tf.setBackend(backend)
    })

    for (const [name, make] of Object.entries(lossless))
      it(`${name}: attends as a plain cache, counts its bytes, forks and restores`, async () => {
        const start = tf.memory().numTensors
        const plain = await run(dense)
        const before = tf.memory()
        const { outputs, cache } = await run(make())
        expect(furthest(outputs, plain.outputs)).toBeLessThan(TOLERANCE)
        expect(cache.bytes().total).toBe(tf.memory().numBytes - before.numBytes)
        const file = await collect(cache.serialize())
        const fork = cache.fork()
        const after = await run(make(), { prompt: [], from: cache, at: 44, decode: 9 })
        const forked = await run(make(), { prompt: [], from: fork, at: 44, decode: 9 })
        expect(furthest(after.outputs, forked.outputs)).toBe(0)
        const restored = restoreCache(model, ready(make()), file)
        const again = await run(make(), { prompt: [], from: restored, at: 44, decode: 9 })
        expect(furthest(after.outputs, again.outputs)).toBe(0)
        const more = await run(dense, { prompt: [], from: plain.cache, at: 44, decode: 9 })
        expect(furthest(after.outputs, more.outputs)).toBeLessThan(TOLERANCE)
        for (const c of [cache, fork, restored]) c.dispose()
        plain.cache.dispose()
        expect(cache.tokensSeen).toBe(53)
        expect(tf.memory().numTensors).toBe(start)
      })

    it('joins the rows of two layers, with exempt rows exact', async () => {
      const plain = await run(dense)
      const twins = await run(dense, { twins: true })
      const [a, b] = [await run(pairs()), await run(pairs(), { twins: true })]
      expect(furthest(a.outputs, plain.outputs)).toBeLessThan(TOLERANCE)
      expect(furthest(b.outputs, twins.outputs)).toBeLessThan(TOLERANCE)
      // Equal layers need no exempt rows and are stored once.
      expect(b.cache.bytes().total).toBeLessThan(0.75 * a.cache.bytes().total)
      const file = await collect(a.cache.serialize())
      const restored = restoreCache(model, ready(pairs()), file)
      const [x, y] = [
        await run(pairs(), { prompt: [], from: a.cache, at: 44 }),
        await run(pairs(), { prompt: [], from: restored, at: 44 }),
      ]
      expect(furthest(x.outputs, y.outputs)).toBe(0)
      for (const { cache } of [plain, twins, a, b, y]) cache.dispose()
    })

    it('lets layers read the rows of earlier ones, also while those are sealed', async () => {
      const map = [0, 0, 2, 2]
      const before = tf.memory().numBytes
      const [plain, sealed] = [await run(share(map)), await run(compose(share(map), exact()))]
      const [one, two] = [await run(dense), await run(window({ store: 'f32' }, share(map)))]
      expect(furthest(two.outputs, sealed.outputs)).toBeLessThan(TOLERANCE)
      expect(sealed.cache.sourceLayer(3)).toBe(2)
      expect(sealed.cache.census(3).keys).toMatchObject({ exact: 0, sealed: 0 })
      expect(two.cache.bytes().window).toBe(one.cache.bytes().window / 2)
      for (const { cache } of [plain, sealed, one, two]) cache.dispose()
      expect(tf.memory().numBytes).toBe(before)
    })

    it('reads only the rows a recall selects, wherever they lie', async () => {
      const outputs = []
      for (const tier of ['device', 'host'] as const)
        for (const inner of [dense, exact()]) {
          const before = tf.memory().numBytes
          const { outputs: out, cache } = await run(compose(recall({ tier, budget: 12 }), inner))
          expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
          if (tier === 'host') expect(cache.bytes().host).toBeGreaterThan(0)
          const fork = cache.fork()
          const file = await collect(cache.serialize())
          const restored = restoreCache(model, ready(compose(recall({ tier, budget: 12 }), inner)), file)
          const ends = []
          for (const c of [cache, fork, restored])
            ends.push((await run(inner, { prompt: [], from: c, at: 44, decode: 7 })).outputs)
          expect(furthest(ends[0] ?? [], ends[1] ?? [])).toBe(0)
          expect(furthest(ends[0] ?? [], ends[2] ?? [])).toBe(0)
          for (const c of [cache, fork, restored]) c.dispose()
          expect(tf.memory().numBytes).toBe(before)
          outputs.push(out)
        }
      // Rows are indexed when they are sealed, so the two inner caches select from different rows, each tier the same.
      expect(furthest(outputs[0] ?? [], outputs[2] ?? [])).toBeLessThan(TOLERANCE)
      expect(furthest(outputs[1] ?? [], outputs[3] ?? [])).toBeLessThan(TOLERANCE)
      const plain = await run(dense)
      expect(furthest(outputs[0] ?? [], plain.outputs)).toBeGreaterThan(1e-3)
      plain.cache.dispose()
    })

    it.each(['device', 'host'] as const)('refuses a selection on the %s that is not ascending', async (tier) => {
      await expect(run(compose(recall({ tier, budget: 12, falling: true }), dense))).rejects.toThrow(
        /in ascending order, each once/,
      )
    })

    it('numbers slots anew with keys before RoPE as with keys after it', async () => {
      const steps = { prompt: [10, 8], decode: 30 }
      const [a, b, c] = [
        await run(compose(oldest(), dense), steps),
        await run(compose(oldest(), window({ sinks: 2 }, exact({ block: 4 }))), steps),
        await run(compose(oldest(), window({ sinks: 2 }, compose(guess(false), exact({ block: 4 })))), steps),
      ]
      expect(furthest(a.outputs, b.outputs)).toBeLessThan(TOLERANCE)
      expect(furthest(a.outputs, c.outputs)).toBeLessThan(TOLERANCE)
      for (const { cache } of [a, b, c]) cache.dispose()
    })

    it('rewrites a full cache into fewer slots', async () => {
      const halve = defineMethod({ name: 'halve', title: '', summary: '', chunkInvariant: true }, {}, () => ({
        store: 'f32',
        stages: [
          {
            kind: 'resample',
            id: 'halve',
            options: null,
            when: 'room',
            accepts: (space) => ({ ...space, rope: space.part === 'keys' ? 'pre' : 'none', slots: true }),
            bind: () => ({
              sinks: 2,
              capacity: 18,
              to: 8,
              apply: (rows) => {
                expect(rows.shape[1]).toBe(16)
                return tf.slice(rows as tf.Tensor3D, [0, 8, 0], [-1, 8, -1])
              },
            }),
          } satisfies Stage<'resample'>,
        ],
      }))
      const cache = openCache(model, ready(halve()))
      expect(cache.chunkLimit).toBe(18)
      const chunked = await run(halve(), { prompt: [18, 8], decode: 10, from: cache })
      const single = await run(halve(), { prompt: [18], decode: 0 })
      expect(chunked.cache.census(0).keys.exact).toBe(12)
      expect(single.cache.chunkLimit).toBe(8)
      const file = await collect(chunked.cache.serialize())
      const restored = restoreCache(model, ready(halve()), file)
      const [x, y] = [
        await run(halve(), { prompt: [], from: chunked.cache, at: 36 }),
        await run(halve(), { prompt: [], from: restored, at: 36 }),
      ]
      expect(furthest(x.outputs, y.outputs)).toBe(0)
      for (const c of [chunked.cache, single.cache, restored]) c.dispose()
    })
  })
