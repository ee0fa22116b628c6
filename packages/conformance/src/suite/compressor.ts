/**
 * The suite that every compressor passes. It reads what a cache holds, and checks attention against a plain reference, the byte ledger
 * against tf.memory(), and that sealed rows stay as they are. The test runner is a parameter: vitest, jest, or another. This file is
 * the list of tests, in the order in which to read them; what they use lies beside it.
 */
import {
  CacheStateError,
  type KVCache,
  type KVCompressor,
  type ModelShape,
  NonFiniteError,
  openCache,
  type Ready,
  ready,
  restoreCache,
  takeTurn,
} from '@kvloom/core'
import { fromTensor, type TestRunner, withTimeout } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, memory, setBackend } from '@tensorflow/tfjs-core'
import { declareEdgeTests } from './edge-tests'
import { differenceOf, heldIn, sameBits, snapshot } from './held'
import { Readiness } from './readiness'
import { RecallWatch } from './recall-watch'
import { SealedRows } from './sealed-rows'
import { rowsAt, shapesOf, tokensAt } from './shapes'
import { cut, feed, feedChecked, largestError, stepsOf, tail } from './steps'
import { type Bench, collect, turnSteps } from './turns'

export interface SuiteOptions {
  readonly name: string
  /** Makes the compressor. Its windows should be small enough that `decode` tokens seal or evict several times. */
  readonly make: () => KVCompressor
  /**
   * Fits what `make` makes for a model; it is called once per model. By default a compressor that needs it is calibrated on
   * `syntheticRun(model)`.
   */
  readonly ready?: (model: ModelShape) => Promise<Ready>
  /**
   * Makes the compressor with settings that lose nothing (full rank, nothing dropped, `window({ store: 'f32' })`). Its outputs must be
   * those of a dense cache.
   */
  readonly identity?: () => KVCompressor
  /** Default cpu and wasm. */
  readonly backends?: readonly ('cpu' | 'wasm')[]
  /** Default three small models. Shapes that the method refuses with ModelMismatch are skipped, but not all may be. */
  readonly shapes?: readonly ModelShape[]
  /** How many layers the default shapes have. Default 2. */
  readonly layers?: number
  /** How many tokens the prompt has. Default 50. */
  readonly prompt?: number
  /** How many tokens are decoded one by one after the prompt. Default 90. */
  readonly decode?: number
  /** Chooses the prompts and chunks that are tried around the sizes that the compressor names. The same seed chooses the same ones. Default 1. */
  readonly seed?: number
  /** Whether a prompt leaves the same cache in pieces as at once. Default what the card says, and false where a stage acts at every append. */
  readonly chunkInvariant?: boolean
  /** Milliseconds that each test may take. Default two minutes. */
  readonly timeout?: number
}

/** A compressor that loses nothing takes a few f32 products more than a dense cache. Relative to 1 + |reference|. */
const IDENTITY_TOLERANCE = 5e-5

/** Attention is checked, and everything that is held is read, after every so many decoded tokens. A prime meets a window at every fill. */
const LOOK_EVERY = 7

/** How many tokens are decoded after a fork or a restore: enough to seal again. */
const TAIL = 36

/** Declares the suite's tests for one compressor. */
export function testCompressor(given: TestRunner, options: SuiteOptions): void {
  const runner = withTimeout(given, options.timeout)
  const { describe, it, expect } = runner
  const { name, make, backends = ['cpu', 'wasm'], layers = 2, prompt = 50, decode = 90, identity } = options
  const shapes = options.shapes ?? shapesOf(layers)
  const fitted = new Readiness(make, options.ready)
  const lossless = identity && new Readiness(identity)
  for (const backend of backends) {
    const start = async () => {
      await takeTurn()
      await registerKernels(backend)
      await setBackend(backend)
    }
    const on =
      (
        model: ModelShape,
        body: (bench: Bench) => Promise<void>,
        of: { readonly make: () => KVCompressor; readonly known: Readiness } = { make, known: fitted },
      ) =>
      async (...context: unknown[]) => {
        await start()
        const before = memory()
        const artifacts = await of.known.artifacts(model)
        if (artifacts) {
          const watch = new RecallWatch()
          const again = () => ready(watch.over(of.make()), artifacts)
          const compressor = again()
          await body({
            open: () => openCache(model, compressor),
            restore: (bytes) => restoreCache(model, again(), bytes),
            watch,
          })
        }
        const { numBytes, numTensors } = memory()
        expect({ numBytes, numTensors }).toEqual({ numBytes: before.numBytes, numTensors: before.numTensors })
        if (!artifacts) skip(context)
      }
    describe(`${name} on ${backend}`, () => {
      it('opens for at least one of the shapes', async () => {
        await start()
        const known = []
        for (const model of shapes) known.push(await fitted.artifacts(model))
        expect(known.some((artifacts) => artifacts !== null)).toBe(true)
      })

      // Edges belong to the method and not to a shape or a backend, so one of each will do.
      if (backend === (backends.includes('wasm') ? 'wasm' : backends[0])) {
        const onFirst = (body: (bench: Bench, model: ModelShape) => Promise<void>) => async () => {
          for (const model of shapes)
            if (await fitted.artifacts(model)) return on(model, (bench) => body(bench, model))()
        }
        declareEdgeTests(runner, { make, prompt, seed: options.seed ?? 1, on: onFirst })
      }

      for (const model of shapes) {
        describe(model.name, () => {
          it(
            'attends as plain attention over what it holds, counts its bytes and never changes what is sealed',
            on(model, async ({ open, watch }) => {
              const base = memory().numBytes
              const cache = open()
              const sealed = new SealedRows()
              const problems: string[] = []
              let most = 0
              // A second prompt, longer than what the first one left, comes behind the decoded tokens.
              const second = () => stepsOf(cache, prompt + 7, 2, prompt + decode)
              for (const step of chained(stepsOf(cache, prompt, decode), second)) {
                const check = step.phase !== 'decode' || step.from % LOOK_EVERY === 0
                if (check) problems.push(...(await feedChecked(cache, step, watch)))
                else await feed(cache, step)
                const { total, peak } = cache.bytes()
                const grown = memory().numBytes - base
                most = Math.max(most, total)
                if (total !== grown)
                  problems.push(
                    `after token ${cache.tokensSeen}: the ledger says ${total} bytes, tf.memory() grew by ${grown}`,
                  )
                if (peak < most) problems.push(`after token ${cache.tokensSeen}: a peak of ${peak} bytes after ${most}`)
                if (check) problems.push(...(await sealed.look(cache)))
                if (problems.length > 0) break
              }
              problems.push(...(await sealed.look(cache)), ...watch.problems())
              if (watch.usesHost && cache.bytes().host === 0) problems.push('nothing is in host memory')
              expect(cache.tokensSeen).toBe(problems.length > 0 ? cache.tokensSeen : 2 * prompt + decode + 9)
              cache.dispose()
              expect(problems).toEqual([])
            }),
          )

          it(
            'continues positions from the original length',
            on(model, async ({ open }) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 3)) await feed(cache, step)
              for (let layer = 0; layer < model.layers; layer++)
                for (const { positions } of await heldIn(cache, layer)) {
                  const live = positions.filter((p) => p >= 0)
                  const ascending = live.every((p, i) => p > (live[i - 1] ?? -1))
                  expect({ ascending, beyond: live.filter((p) => p >= prompt + 3).length }).toEqual({
                    ascending: true,
                    beyond: 0,
                  })
                }
              cache.dispose()
            }),
          )

          if (lossless)
            it(
              'with its identity settings answers as a dense cache, over two prompts',
              on(
                model,
                async ({ open }) => {
                  const [cache, dense] = [open(), openCache(model, ready(DENSE))]
                  const problems: string[] = []
                  const second = { prompt: 9, chunk: 4, decode: 3 }
                  for (const step of chained(stepsOf(cache, prompt, TAIL), () => turnSteps(cache, second))) {
                    const [a, b] = [await feed(cache, step), await feed(dense, step)]
                    a.forEach(({ data }, layer) => {
                      const { error, at } = largestError(data, b[layer]?.data ?? [])
                      if (!(error <= IDENTITY_TOLERANCE))
                        problems.push(
                          `layer ${layer} at token ${step.from} is off by ${error} at element ${at} (tolerance ${IDENTITY_TOLERANCE})`,
                        )
                    })
                    if (problems.length > 0) break
                  }
                  cache.dispose()
                  dense.dispose()
                  expect(problems).toEqual([])
                },
                { make: identity, known: lossless },
              ),
            )

          if (options.chunkInvariant ?? isChunkInvariant(make()))
            it(
              'holds the same bits after a prompt in pieces as at once',
              on(model, async ({ open }) => {
                const [whole, pieces] = [open(), open()]
                await feed(whole, { from: 0, count: prompt, phase: 'promptEnd' })
                for (const step of cut(prompt, [1, 7, 33, 2, 16])) await feed(pieces, step)
                for (const step of tail(prompt, 5)) {
                  await feed(whole, step)
                  await feed(pieces, step)
                }
                const [a, b] = [await snapshot(whole), await snapshot(pieces)]
                whole.dispose()
                pieces.dispose()
                expect(differenceOf(b, a)).toBe('')
              }),
            )

          it(
            'forks into independent continuations',
            on(model, async ({ open }) => {
              const trunk = open()
              for (const step of stepsOf(trunk, prompt, 5)) await feed(trunk, step)
              const before = await snapshot(trunk)
              const [same, other] = [trunk.fork(), trunk.fork()]
              for (const step of tail(prompt + 5, TAIL)) await feed(other, step, 2)
              expect(differenceOf(await snapshot(trunk), before)).toBe('')
              expect(differenceOf(await snapshot(same), before)).toBe('')
              for (const step of tail(prompt + 5, TAIL)) {
                const [a, b] = [await feed(trunk, step), await feed(same, step)]
                if (!sameBits(a, b)) throw new Error(`A fork answers differently at token ${step.from}.`)
              }
              const continued = await snapshot(trunk)
              trunk.dispose()
              expect(differenceOf(await snapshot(same), continued)).toBe('')
              other.dispose()
              same.dispose()
            }),
          )

          it(
            'is cropped by going on from an earlier fork',
            on(model, async ({ open }) => {
              const base = memory().numBytes
              const long = open()
              for (const step of stepsOf(long, prompt, 5)) await feed(long, step)
              const cropped = long.fork()
              for (const step of tail(prompt + 5, TAIL)) await feed(long, step)
              long.dispose()
              // The first read makes tables and masks, so it comes before the ledger is compared.
              const answer = await readAll(cropped)
              expect(cropped.bytes().total).toBe(memory().numBytes - base)
              const short = open()
              for (const step of stepsOf(short, prompt, 5)) await feed(short, step)
              expect(sameBits(answer, await readAll(short))).toBe(true)
              expect(differenceOf(await snapshot(cropped), await snapshot(short))).toBe('')
              // The peak tells what was before, so it is left out.
              expect({ ...cropped.bytes(), peak: 0 }).toEqual({ ...short.bytes(), peak: 0 })
              short.dispose()
              cropped.dispose()
            }),
          )

          it(
            'continues bit for bit after serialize and restore',
            on(model, async ({ open, restore }) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 5)) await feed(cache, step)
              const base = memory().numBytes
              const restored = restore(await collect(cache.serialize()))
              expect(restored.bytes().total).toBe(memory().numBytes - base)
              expect(differenceOf(await snapshot(restored), await snapshot(cache))).toBe('')
              for (const step of tail(prompt + 5, TAIL)) {
                const [a, b] = [await feed(cache, step), await feed(restored, step)]
                if (!sameBits(a, b)) throw new Error(`A restored cache answers differently at token ${step.from}.`)
              }
              expect(differenceOf(await snapshot(restored), await snapshot(cache))).toBe('')
              cache.dispose()
              restored.dispose()
            }),
          )

          it(
            'refuses NaN, keeps what it holds, and takes the step again',
            on(model, async ({ open }) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 2)) await feed(cache, step)
              const at = prompt + 2
              // A refused step leaves the cache as it was before the step began, also where room would have been made for it.
              const before = await snapshot(cache)
              cache.begin(tokensAt(at, 1), 'decode')
              const good = rowsAt(model, 0, at, 1, 1)
              const bad = fill(good.values.shape, Number.NaN)
              const error = await caught(() => cache.attend(0, { ...good, values: bad }))
              dispose([...Object.values(good), bad])
              expect(error instanceof NonFiniteError).toBe(true)
              expect(differenceOf(await snapshot(cache), before)).toBe('')
              await feed(cache, { from: at, count: 1, phase: 'decode' })
              expect(cache.tokensSeen).toBe(at + 1)
              cache.dispose()
            }),
          )

          it(
            'takes a prompt of one token and refuses an empty one',
            on(model, async ({ open, watch }) => {
              const cache = open()
              const error = await caught(async () => cache.begin(new Int32Array(0), 'promptEnd'))
              expect(error instanceof CacheStateError).toBe(true)
              const problems: string[] = []
              for (const step of [{ from: 0, count: 1, phase: 'promptEnd' } as const, ...tail(1, 3)])
                problems.push(...(await feedChecked(cache, step, watch)))
              expect(problems).toEqual([])
              expect(cache.tokensSeen).toBe(4)
              cache.dispose()
            }),
          )
        })
      }
    })
  }
}

/** Makes a cache that holds everything as it came. */
const DENSE: KVCompressor = {
  card: { name: 'dense', title: 'Dense', summary: 'Holds everything as it came.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** Runs one after the other: the second begins when the first has ended. */
function* chained<T>(first: Iterable<T>, second: () => Iterable<T>): Generator<T> {
  yield* first
  yield* second()
}

/** What every layer answers to one query, from what is stored. */
async function readAll(cache: KVCache) {
  const answers = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const rows = rowsAt(cache.model, layer, cache.tokensSeen, 1, 3)
    const answer = await cache.read(layer, rows.queries)
    answers.push(await fromTensor(answer))
    dispose([...Object.values(rows), answer])
  }
  return answers
}

const isChunkInvariant = ({ card, stages }: KVCompressor): boolean =>
  card.chunkInvariant && stages.every(({ when }) => when !== 'step' && when !== 'room' && typeof when === 'string')

/** Tells the runner, where it can be told, that a test had nothing to do. */
function skip([context]: readonly unknown[]): void {
  const { skip } = (context ?? {}) as { skip?: unknown }
  if (typeof skip === 'function') skip.call(context, 'the method refuses this shape')
}

async function caught(work: () => Promise<unknown>): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error
  }
  return undefined
}
