/** What dropped rows hold: at no step much more than the live ones need, and what stays is what was stored. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { compose, window } from '../compose'
import type { KVCache, KVCompressor } from '../contract'
import { defineScorer } from '../define'
import { defineTransform } from '../define-transform'
import { fraction, integer } from '../options'
import { StepRotation } from '../rope'
import { blocks, feed, inputs, lastAttention, model, norms, random, recentOnly, rows } from '../testing/cache-toys'
import { openCache } from './open'

/** Held bytes may lie so far above what live rows need, besides one page a part and lane. */
const SHARE = 1.15

/** Every head drops rows of its own at every step. */
const shortKeys = defineScorer({
  name: 'short-keys',
  when: 'step',
  options: { cache: integer({ default: 48, min: 1, doc: '' }) },
  needs: { keys: { of: 'keys' } },
  count: (tokens, { cache }) => Math.min(tokens, cache),
  score: ({ keys }) => tf.neg(tf.norm(keys, 2, -1)),
})
/** Keys keep the channels that this prompt's keys are largest in; the others read as 0. */
const channels = defineTransform({
  name: 'channels',
  when: 'promptEnd',
  options: { keep: fraction({ default: 0.5, doc: '' }) },
  parts: () => ['keys'],
  rope: 'post',
  window: () => ({
    sinks: 0,
    keys: { recent: 4, block: 1, drain: 'all' },
    values: { recent: Infinity, block: 1, drain: 'blocks' },
  }),
  store: () => 'f32',
  transform: ({ keep }, site) => {
    const kept = Math.round(site.dim * keep)
    const up = (state: Readonly<Record<string, tf.Tensor>>) =>
      tf.cast(tf.oneHot(state['index'] as tf.Tensor2D, site.dim), 'float32')
    return {
      fitted: 'prompt',
      needs: {},
      main: { heads: site.heads, dim: kept },
      fitOnline: (given) => ({ index: tf.topk(tf.sum(tf.abs(given), 1), kept).indices }),
      encode: ([given], state) => ({ main: tf.matMul(given as tf.Tensor3D, up(state) as tf.Tensor3D, false, true) }),
      decoder: (state) => ({ up: up(state) }),
    }
  },
})

const needed = (cache: KVCache) => {
  const { state, index, workspace, perPrompt, perModel, total } = cache.bytes()
  const layers = Array.from({ length: model.layers }, (_, layer) => cache.census(layer))
  const live = layers.reduce((n, layer) => n + layer.liveBytes, 0)
  const pages = layers.reduce((n, layer) => n + layer.pageBytes, 0)
  return { held: total - perModel, needs: live + state + index + workspace + perPrompt, pages }
}

/** Softmax attention of one query per head, before RoPE, at a position, over rows in host memory. */
async function attentionOver(
  held: { readonly keys: tf.Tensor; readonly values: tf.Tensor },
  queries: tf.Tensor3D,
  position: number,
): Promise<Float32Array> {
  const rotation = new StepRotation(model.rope, position, 1)
  const output = tf.tidy(() => {
    const group = model.queryHeads / model.kvHeads
    const each = (t: tf.Tensor) =>
      tf.concat(
        Array.from({ length: model.queryHeads }, (_, h) =>
          tf.slice(t as tf.Tensor3D, [Math.floor(h / group), 0, 0], [1, -1, -1]),
        ),
      )
    const scores = tf.mul(tf.matMul(rotation.rotate(queries), each(held.keys), false, true), model.attentionScale)
    return tf.matMul(tf.softmax(scores), each(held.values))
  })
  const values = (await output.data()) as Float32Array
  output.dispose()
  rotation.dispose()
  return values
}

describe.each(['cpu', 'wasm'] as const)('rows held on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend)
    await tf.ready()
    await registerKernels(backend)
  })

  const dropping: readonly (readonly [string, KVCompressor])[] = [
    ['a stream with slot positions', recentOnly({ recent: 120 })],
    ['a stream over blocks', compose(recentOnly({ recent: 120 }), blocks())],
    ['a stream over single rows', compose(recentOnly({ recent: 120 }), rows())],
    ['one row a step, one set for all heads', lastAttention({ cache: 100 })],
    ['one row a step, each head its own', shortKeys({ cache: 100 })],
    ['one row a step over single rows', compose(lastAttention({ cache: 100 }), rows())],
    ['a tiny cache', lastAttention({ cache: 3 })],
    ['the end of the prompt', compose(norms({ keep: 0.3 }), rows())],
  ]
  it.each(dropping)('%s: little more than live rows need, at every step', async (_, compressor) => {
    const before = tf.memory().numBytes
    const cache = openCache(model, compressor)
    const tensors: number[] = []
    for (let i = 0; i < (backend === 'cpu' ? 130 : 420); i++) {
      // Lets the test runner speak in between.
      if (i % 10 === 0) await new Promise((resolve) => setImmediate(resolve))
      await feed(cache, [i < 3 ? 40 : 1], () => (i < 2 ? 'prompt' : i === 2 ? 'promptEnd' : 'decode'), i)
      const { held, needs, pages } = needed(cache)
      if (i >= 2) expect(held, `after step ${i}`).toBeLessThanOrEqual(SHARE * needs + pages)
      expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
      if (i % 60 === 59) tensors.push(tf.memory().numTensors)
    }
    // Pages come and go; nothing is added step by step.
    if (compressor.stages.some((s) => s.when !== 'promptEnd' && s.when !== 'seal'))
      expect(Math.max(...tensors.slice(2))).toBeLessThanOrEqual(Math.max(...tensors.slice(0, 3)) + 40)
    cache.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('keeps of each head the rows that it did not drop, also where they were copied together', async () => {
    const cache = openCache(model, { ...shortKeys({ cache: 30 }), store: 'f32' })
    for (let i = 0; i < 90; i++) await feed(cache, [i === 0 ? 20 : 1], () => (i === 0 ? 'promptEnd' : 'decode'), i)
    const { values, positions } = await cache.materialize(1)
    const held = (await values.array()) as number[][][]
    for (const [h, row] of positions.entries()) {
      const live = [...row].filter((p) => p >= 0)
      expect(live).toHaveLength(30)
      expect(live).toEqual([...live].sort((a, b) => a - b))
      for (const [i, position] of row.entries()) {
        if (position < 20) continue
        const given = inputs(1, position - 19, 1)
        const [first] = ((await given.values.array()) as number[][][])[h] ?? []
        expect(held[h]?.[i]).toEqual(first)
        tf.dispose([given.queries, given.keys, given.values])
      }
    }
    tf.dispose(values)
    tf.dispose((await cache.materialize(0)).keys)
    cache.dispose()
  })

  it('decodes rows with what their own prompt fitted, whatever later prompts fit', async () => {
    const before = tf.memory()
    const [bytes, count] = [before.numBytes, before.numTensors]
    const cache = openCache(model, channels())
    await feed(cache, [40], () => 'promptEnd', 5)
    const first = await cache.materialize(0)
    const sealed = 36
    const queries = random([4, 1, 32], 7)
    for (let turn = 0; turn < 3; turn++) {
      await feed(cache, [30], () => 'promptEnd', 50 + turn)
      const now = await cache.materialize(0)
      const cut = (t: tf.Tensor) => tf.slice(t as tf.Tensor3D, [0, 0, 0], [-1, sealed, -1])
      const [a, b] = [cut(first.keys), cut(now.keys)]
      expect(await b.data()).toEqual(await a.data())
      // Attention over rows of several prompts is that over what they decode to.
      const out = await cache.read(0, queries)
      const expected = await attentionOver(now, queries, cache.tokensSeen - 1)
      for (const [i, x] of (await out.data()).entries()) expect(x).toBeCloseTo(expected[i] ?? 0, 4)
      tf.dispose([a, b, now.keys, now.values, out])
      expect(cache.bytes().total).toBe(
        tf.memory().numBytes - bytes - [first.keys, first.values, queries].reduce((n, t) => n + t.size * 4, 0),
      )
    }
    const twin = cache.fork()
    expect(await feed(twin, [2], () => 'decode', 90)).toEqual(await feed(cache, [2], () => 'decode', 90))
    tf.dispose([first.keys, first.values, queries])
    twin.dispose()
    cache.dispose()
    expect([tf.memory().numBytes, tf.memory().numTensors]).toEqual([bytes, count])
  })

  it('seals blocks as small as a quantizer allows where a stream drops them whole', async () => {
    const cache = openCache(model, compose(recentOnly({ recent: 100 }), window({ keys: { block: 64 } }, blocks())))
    await feed(cache, new Array<number>(20).fill(10), () => 'decode')
    for (const view of cache.segments(0)[0]?.keys ?? []) if (view.zone === 'sealed') expect(view.rows).toBe(32)
    cache.dispose()
  })
})
