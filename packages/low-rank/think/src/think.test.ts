import { syntheticModel, testCompressor } from '@kvloom/conformance'
import { compose, defineTransform, IncompatibleStages, OptionError, siteOf, stagesOn, window } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, matMul, memory, randomNormal, setBackend, type Tensor, tensor3d, tidy } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { channelScores, think } from './think'

type Options = NonNullable<Parameters<typeof think>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, {
  name: 'think',
  make: () => think({ window: 8, recent: 16 }),
  identity: () => window({ store: 'f32' }, think({ prune: 0, window: 8, recent: 16 })),
})
testCompressor(runner, {
  name: 'think, later keys too',
  make: () => think({ prune: 0.5, window: 8, recent: 16, afterPrompt: 'pruned' }),
  backends: ['wasm'],
})

/** Two KV heads of 10 channels, each with two query heads. */
const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 10, valueDim: 6 })
const [QUERIES, TOKENS, DIM] = [7, 12, 10]

function transform(options: Options = {}) {
  const [stage] = stagesOn(think(options), 'transform', 0, 'keys')
  if (!stage) throw new Error('think has no stage for keys')
  return stage.bind(siteOf(model, 0, 'keys'))
}

const numbers = async (x: Tensor): Promise<number[]> => [...((await x.data()) as Float32Array)]
const gaussian = (shape: [number, number, number], seed: number) => randomNormal(shape, 0, 1, 'float32', seed)

/** The channels kept of a prompt, and its keys after the round trip. */
async function through(options: Options, queries: Tensor, keys: Tensor) {
  const stage = transform(options)
  const { state, main, back } = tidy(() => {
    const state = stage.fitOnline?.(keys, { queries }) ?? {}
    const { main } = stage.encode([keys], state)
    const { up } = stage.decoder(state, 0)
    if (!up) throw new Error('think decodes by a map')
    return { state, main, back: matMul(main, up) }
  })
  const { channels } = state
  if (!channels) throw new Error('think chooses channels')
  const found = {
    channels: await numbers(channels),
    dtype: channels.dtype,
    shape: main.shape,
    back: await numbers(back),
  }
  dispose([channels, main, back])
  return found
}

describe('think', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('keeps the best channels exactly and zeroes the others, on every backend', async () => {
    for (const backend of ['cpu', 'wasm'] as const) {
      await registerKernels(backend)
      await setBackend(backend)
      const before = memory().numTensors
      const [queries, keys] = [gaussian([4, QUERIES, DIM], 3), gaussian([2, TOKENS, DIM], 4)]
      const { channels, dtype, shape, back } = await through({ prune: 0.45 }, queries, keys)
      expect(shape).toEqual([2, TOKENS, 6]) // 10 - trunc(4.5)
      expect(dtype).toBe('int32')
      const original = await numbers(keys)
      for (const head of [0, 1]) {
        const kept = channels.slice(head * 6, (head + 1) * 6)
        expect(kept).toEqual([...new Set(kept)].sort((a, b) => a - b))
        for (let at = head * TOKENS * DIM; at < (head + 1) * TOKENS * DIM; at++)
          expect(back[at]).toBe(kept.includes(at % DIM) ? original[at] : 0)
      }
      dispose([queries, keys])
      expect(memory().numTensors).toBe(before)
    }
  })

  it('changes nothing when nothing is pruned', async () => {
    const [queries, keys] = [gaussian([4, QUERIES, DIM], 5), gaussian([2, TOKENS, DIM], 6)]
    expect((await through({ prune: 0 }, queries, keys)).back).toEqual(await numbers(keys))
    dispose([queries, keys])
  })

  it('scores a channel by what it adds to all products of queries and keys', async () => {
    const [queries, keys] = [gaussian([4, QUERIES, DIM], 7), gaussian([2, TOKENS, DIM], 8)]
    const scores = tidy(() => channelScores(queries, keys))
    const [q, k, got] = [await numbers(queries), await numbers(keys), await numbers(scores)]
    dispose([queries, keys, scores])
    for (let head = 0; head < 2; head++)
      for (let channel = 0; channel < DIM; channel++) {
        let energy = 0
        for (let row = 2 * head * QUERIES; row < 2 * (head + 1) * QUERIES; row++)
          for (let token = head * TOKENS; token < (head + 1) * TOKENS; token++)
            energy += (q[row * DIM + channel]! * k[token * DIM + channel]!) ** 2
        const mean = energy / (2 * QUERIES * TOKENS)
        expect(Math.abs(got[head * DIM + channel]! / mean - 1)).toBeLessThan(1e-5) // f32 sums of a few dozen squares
      }
  })

  it('prunes trunc(dim · prune) channels, the lowest scores', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        fc.integer({ min: 0, max: 1e6 }),
        async (prune, seed) => {
          const [queries, keys] = [gaussian([4, QUERIES, DIM], seed), gaussian([2, TOKENS, DIM], seed + 1)]
          const scores = tidy(() => channelScores(queries, keys))
          const score = await numbers(scores)
          const { channels } = await through({ prune }, queries, keys)
          dispose([queries, keys, scores])
          const count = DIM - Math.trunc(DIM * prune)
          expect(channels.length).toBe(2 * count)
          for (const head of [0, 1]) {
            const kept = channels.slice(head * count, (head + 1) * count)
            const of = (c: number) => score[head * DIM + c]!
            const pruned = Array.from({ length: DIM }, (_, c) => c).filter((c) => !kept.includes(c))
            expect(Math.min(...kept.map(of))).toBeGreaterThanOrEqual(Math.max(0, ...pruned.map(of)))
          }
        },
      ),
      { numRuns: 20 },
    )
  })

  it('breaks ties by the lowest channel', async () => {
    const [queries, keys] = [
      gaussian([4, QUERIES, DIM], 9),
      tensor3d(new Float32Array(2 * TOKENS * DIM), [2, TOKENS, DIM]),
    ]
    expect((await through({ prune: 0.7 }, queries, keys)).channels).toEqual([0, 1, 2, 0, 1, 2])
    dispose([queries, keys])
  })

  it('seals keys without their window at the end of the prompt, and leaves values alone', () => {
    const { stages, window } = think({ recent: 8 })
    expect(stages.map((s) => [s.when, s.on?.part])).toEqual([['promptEnd', 'keys']])
    expect(window?.keys).toEqual({ recent: 8, block: 1, drain: 'all' })
    expect(window?.values.recent).toBe(Number.POSITIVE_INFINITY)
    expect(transform({ window: 16 }).needs).toEqual({ queries: { of: 'queries', last: 16 } })
    expect(transform().afterPrompt).toBe(false)
    expect(transform({ afterPrompt: 'pruned' }).afterPrompt).toBe(true)
  })

  it('refuses what does not fit', () => {
    for (const options of [{ prune: 1 }, { prune: -0.1 }, { window: 0 }, { recent: -1 }, { recent: 0.5 }])
      expect(() => think(options), JSON.stringify(options)).toThrow(OptionError)
    const other = defineTransform({
      name: 'other',
      options: {},
      rope: 'pre',
      transform: () => ({
        fitted: 'model',
        needs: {},
        main: { heads: 2, dim: 1 },
        encode: () => {
          throw new Error('not run')
        },
        decoder: () => ({}),
      }),
    })
    expect(() => compose(think(), other())).toThrow(IncompatibleStages)
  })
})
