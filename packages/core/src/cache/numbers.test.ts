/** Numbers that a cache cannot store are refused by their limit and what lifts it. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { window } from '../compose'
import type { KVCompressor } from '../contract'
import { defineQuantizer } from '../define'
import { NonFiniteError } from '../errors'
import { dense, feed, inputs, model } from '../testing/cache-toys'
import { openCache } from './open'

beforeAll(async () => {
  await tf.setBackend('wasm')
  await tf.ready()
  await registerKernels('wasm')
})

describe('numbers that cannot be stored', () => {
  const filled = (of: 'queries' | 'keys' | 'values', x: number) => {
    const now = inputs(1, 3, 0)
    const bad = tf.fill(now[of].shape, x) as tf.Tensor3D
    now[of].dispose()
    return { ...now, [of]: bad }
  }
  it.each([
    ['queries', Number.NaN],
    ['queries', Number.POSITIVE_INFINITY],
    ['keys', Number.NaN],
    ['values', Number.NEGATIVE_INFINITY],
    ['values', 65505],
  ] as const)('%s of %d are refused, and the cache goes on', async (of, x) => {
    const before = tf.memory().numBytes
    const cache = openCache(model, { ...dense, store: 'f16' })
    await feed(cache, [4])
    cache.begin(new Int32Array(1), 'decode')
    const now = filled(of, x)
    await expect(cache.attend(0, now)).rejects.toThrow(NonFiniteError)
    tf.dispose(Object.values(now))
    await feed(cache, [2])
    expect(cache.tokensSeen).toBe(6)
    cache.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  const scaled = (o: { largest: number; cure?: string }) =>
    defineQuantizer({
      name: 'scaled',
      options: {},
      window: () => ({
        sinks: 0,
        keys: { recent: 8, block: 8, drain: 'blocks' },
        values: { recent: 8, block: 8, drain: 'blocks' },
      }),
      quantizer: () => ({
        layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
        rowsPerGroup: 1,
        theoreticalBitsPerValue: 32,
        largest: o.largest,
        ...(o.cure ? { largestCure: o.cure } : {}),
        encode: (given) => ({ rows: tf.add(given, 0) }),
        decode: ({ rows }) => tf.clone(rows),
      }),
    })()
  const cure = 'Ask for wide metadata.'
  const wide = "window({ store: 'f32' }, ...) holds larger numbers."
  const check = 'in any layer. Check the model weights and the input. '
  const goesOn = 'The cache goes on as if the step had not begun.'
  const attention = 'infinity or numbers beyond 1e+12, the most that attention in f32 holds'
  it.each<[string, KVCompressor, number, 'queries' | 'values', string]>([
    ['NaN', dense, Number.NaN, 'values', `with NaN, ${attention}; nothing of this step was stored ${check}${goesOn}`],
    [
      'queries',
      dense,
      Infinity,
      'queries',
      `with NaN, ${attention}; nothing of this step was stored ${check}${goesOn}`,
    ],
    ['numbers near the end of f32', dense, 3e38, 'values', `with NaN, ${attention}; nothing`],
    ['queries near the end of f32', dense, -3e38, 'queries', `with NaN, ${attention}; nothing`],
    [
      'the store',
      { ...dense, store: 'f16' },
      7e4,
      'values',
      `beyond 65504, the most that its store, f16, holds; nothing of this step was stored ${check}${wide} ${goesOn}`,
    ],
    [
      'metadata',
      scaled({ largest: 8188, cure }),
      12e3,
      'values',
      `beyond 8188, the most that the metadata of scaled holds; nothing of this step was stored ${check}${cure} ${goesOn}`,
    ],
    [
      'metadata behind a wide store',
      window({ store: 'f32' }, scaled({ largest: 8188 })),
      12e3,
      'values',
      `the metadata of scaled holds; nothing of this step was stored ${check}exceptLayers([0], ...) around scaled leaves out`,
    ],
    [
      'both',
      scaled({ largest: 65504, cure }),
      7e4,
      'values',
      `its store, f16, and the metadata of scaled holds; nothing of this step was stored ${check}${wide} ${cure} ${goesOn}`,
    ],
  ])('name their limit and what lifts it: %s', async (_, compressor, x, of, words) => {
    const cache = openCache(model, compressor)
    cache.begin(new Int32Array(1), 'decode')
    const now = filled(of, x)
    await expect(cache.attend(0, now)).rejects.toThrow(words)
    await feed(cache, [2])
    // Behind a layer that has stored its rows the step cannot be taken back.
    cache.begin(new Int32Array(1), 'decode')
    const good = inputs(1, 5, 0)
    ;(await cache.attend(0, good)).dispose()
    await expect(cache.attend(1, now)).rejects.toThrow(
      /stored for it\. .* Go on from a fork\(\) taken before this step\.$/,
    )
    tf.dispose([...Object.values(now), ...Object.values(good)])
    cache.dispose()
  })

  it('numbers as large as attention takes give finite answers, from all rows, few and many', async () => {
    const before = tf.memory().numBytes
    for (const n of [1, 5, 70]) {
      const cache = openCache(model, dense)
      for (const step of [0, 1]) {
        cache.begin(new Int32Array(n), 'decode')
        for (let layer = 0; layer < model.layers; layer++) {
          const now = inputs(n, 7 + step, layer)
          // Rotation makes numbers larger by up to the square root of 2.
          const large = Object.fromEntries(
            Object.entries(now).map(([name, x]) => [name, tf.tidy(() => tf.mul(tf.sign(x), 7e11))]),
          ) as unknown as typeof now
          const out = await cache.attend(layer, large)
          expect((await out.data()).every((x) => Math.abs(x) <= 7.001e11)).toBe(true)
          tf.dispose([out, ...Object.values(now), ...Object.values(large)])
        }
        await cache.commit()
      }
      cache.dispose()
    }
    expect(tf.memory().numBytes).toBe(before)
  })

  it('keys are held against their limit as they are stored: turned, where RoPE turns them', async () => {
    const cache = openCache(model, { ...dense, store: 'f16' })
    await feed(cache, [3])
    cache.begin(new Int32Array(1), 'decode')
    const now = filled('keys', 60000)
    // 60,000 (cos + sin) of the first pair at position 3 is 1.13 times as much in one of its channels.
    await expect(cache.attend(0, now)).rejects.toThrow(/65504/)
    const exact = openCache(model, dense)
    await feed(exact, [3])
    exact.begin(new Int32Array(1), 'decode')
    const out = await exact.attend(0, now)
    expect((await out.data()).every(Number.isFinite)).toBe(true)
    tf.dispose([out, ...Object.values(now)])
    for (const c of [cache, exact]) c.dispose()
  })
})
