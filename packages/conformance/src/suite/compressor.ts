/**
 * The suite every compressor passes: it reads what a cache holds, checks attention against a plain reference, the byte ledger
 * against tf.memory(), and that what is sealed stays as it is. Takes the test runner as parameters: vitest, jest, or another.
 */
import {
  CacheStateError,
  type KVCache,
  type KVCompressor,
  ModelMismatch,
  type ModelShape,
  NonFiniteError,
  openCache,
  type Phase,
  ready,
  restoreCache,
} from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, memory, setBackend, type Tensor } from '@tensorflow/tfjs-core'
import { fromTensor, type NdArray } from '../golden/array'
import { bitsOfRow, differenceOf, heldIn, sameBits, snapshot, usesSlots } from './held'
import { plainAttention } from './reference'
import { rowsAt, SHAPES } from './shapes'

/** What the suite uses of a test runner; `vitest` fits as it is. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => Promise<void>): unknown
  expect(actual: unknown): { toBe(expected: unknown): void; toEqual(expected: unknown): void }
}

export interface SuiteOptions {
  readonly name: string
  /** Makes the compressor; with windows small enough that `decode` tokens seal or evict several times. */
  readonly make: () => KVCompressor
  /** Default cpu and wasm. */
  readonly backends?: readonly ('cpu' | 'wasm')[]
  /** Default three small models. Shapes that the method refuses with ModelMismatch are skipped, but not all may be. */
  readonly shapes?: readonly ModelShape[]
  /** Tokens of the prompt; default 50. */
  readonly prompt?: number
  /** Tokens decoded one by one after it; default 90. */
  readonly decode?: number
  /** Whether a prompt in pieces leaves the same cache as at once; default what the card says, and false with a stage that acts at every append. */
  readonly chunkInvariant?: boolean
}

/** f32 products and sums against double precision, relative to 1 + |reference|. */
const ATTENTION_TOLERANCE = 2e-5
/** Every so many decoded tokens attention is checked and everything held is read; a prime, so that it meets all phases of a window. */
const LOOK_EVERY = 7

/** Tokens decoded after a fork or a restore: enough to seal again. */
const TAIL = 36

/** Declares the suite's tests for one compressor. */
export function testCompressor(runner: TestRunner, options: SuiteOptions): void {
  const { describe, it, expect } = runner
  const { name, make, backends = ['cpu', 'wasm'], shapes = SHAPES, prompt = 50, decode = 90 } = options
  for (const backend of backends) {
    const on = (model: ModelShape, body: (open: () => KVCache) => Promise<void>) => async () => {
      // A turn of the event loop: tfjs answers in microtasks, which would keep a test runner's own messages waiting.
      await new Promise((resolve) => setTimeout(resolve, 0))
      await registerKernels(backend)
      await setBackend(backend)
      const compressor = ready(make())
      const before = memory()
      await body(() => openCache(model, compressor))
      const { numBytes, numTensors } = memory()
      expect({ numBytes, numTensors }).toEqual({ numBytes: before.numBytes, numTensors: before.numTensors })
    }
    const fits = shapes.filter((model) => accepts(make(), model))
    describe(`${name} on ${backend}`, () => {
      it('opens for at least one of the shapes', async () => expect(fits.length > 0).toBe(true))

      for (const model of fits) {
        describe(model.name, () => {
          it(
            'attends as plain attention over what it holds, counts its bytes and never changes what is sealed',
            on(model, async (open) => {
              const base = memory().numBytes
              const cache = open()
              const sealed = new SealedRows()
              const problems: string[] = []
              const look = async () => problems.push(...(await sealed.look(cache)))
              for (const step of stepsOf(cache, prompt, decode)) {
                const check = step.phase !== 'decode' || step.from % LOOK_EVERY === 0
                problems.push(...(await feedChecked(cache, step, check)))
                const [total, grown] = [cache.bytes().total, memory().numBytes - base]
                if (total !== grown)
                  problems.push(
                    `after token ${cache.tokensSeen}: the ledger says ${total} bytes, tf.memory() grew by ${grown}`,
                  )
                if (check) await look()
                if (problems.length > 0) break
              }
              await look()
              expect(cache.tokensSeen).toBe(problems.length > 0 ? cache.tokensSeen : prompt + decode)
              cache.dispose()
              expect(problems).toEqual([])
            }),
          )

          it(
            'continues positions from the original length',
            on(model, async (open) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 3)) await feed(cache, step)
              for (let layer = 0; layer < model.layers; layer++)
                for (const head of (await heldIn(cache, layer)).positions) {
                  const live = head.filter((p) => p >= 0)
                  const ascending = live.every((p, i) => p > (live[i - 1] ?? -1))
                  expect({ ascending, beyond: live.filter((p) => p >= prompt + 3).length }).toEqual({
                    ascending: true,
                    beyond: 0,
                  })
                }
              cache.dispose()
            }),
          )

          if (options.chunkInvariant ?? isChunkInvariant(make()))
            it(
              'holds the same bits after a prompt in pieces as at once',
              on(model, async (open) => {
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
            on(model, async (open) => {
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
            'continues bit for bit after serialize and restore',
            on(model, async (open) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 5)) await feed(cache, step)
              const base = memory().numBytes
              const restored = restoreCache(model, ready(make()), await collect(cache.serialize()))
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
            on(model, async (open) => {
              const cache = open()
              for (const step of stepsOf(cache, prompt, 2)) await feed(cache, step)
              const at = prompt + 2
              cache.begin(new Int32Array(1), 'decode')
              const before = await snapshot(cache)
              const good = rowsAt(model, 0, at, 1, 1)
              const bad = fill(good.values.shape, Number.NaN)
              const error = await caught(() => cache.attend(0, { ...good, values: bad }))
              dispose([good.queries, good.keys, good.values, bad])
              expect(error instanceof NonFiniteError).toBe(true)
              expect(differenceOf(await snapshot(cache), before)).toBe('')
              await feed(cache, { from: at, count: 1, phase: 'decode' })
              expect(cache.tokensSeen).toBe(at + 1)
              cache.dispose()
            }),
          )

          it(
            'takes a prompt of one token and refuses an empty one',
            on(model, async (open) => {
              const cache = open()
              const error = await caught(async () => cache.begin(new Int32Array(0), 'promptEnd'))
              expect(error instanceof CacheStateError).toBe(true)
              const problems: string[] = []
              for (const step of [{ from: 0, count: 1, phase: 'promptEnd' } as const, ...tail(1, 3)])
                problems.push(...(await feedChecked(cache, step, true)))
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

interface PlannedStep {
  readonly from: number
  readonly count: number
  readonly phase: Phase
}

/** A prompt, in as few chunks as the cache allows, and single tokens. */
const stepsOf = (cache: KVCache, prompt: number, decode: number): PlannedStep[] => {
  const most = Math.min(prompt, cache.chunkLimit)
  return [
    ...cut(
      prompt,
      Array.from({ length: Math.ceil(prompt / most) - 1 }, () => most),
    ),
    ...tail(prompt, decode),
  ]
}

/** A prompt cut into `sizes` and the rest. */
function cut(prompt: number, sizes: readonly number[]): PlannedStep[] {
  const steps: PlannedStep[] = []
  let from = 0
  for (const count of sizes) {
    if (from + count >= prompt) break
    steps.push({ from, count, phase: 'prompt' })
    from += count
  }
  return [...steps, { from, count: prompt - from, phase: 'promptEnd' }]
}

const tail = (from: number, count: number): PlannedStep[] =>
  Array.from({ length: count }, (_, i) => ({ from: from + i, count: 1, phase: 'decode' }))

/** One step through all layers; the last layer's output. */
async function feed(cache: KVCache, { from, count, phase }: PlannedStep, seed = 1): Promise<NdArray> {
  cache.begin(new Int32Array(count), phase)
  let last: NdArray = { shape: [], data: new Float32Array(0) }
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const rows = rowsAt(cache.model, layer, from, count, seed)
    const output = await cache.attend(layer, rows)
    last = await fromTensor(output)
    dispose([rows.queries, rows.keys, rows.values, output])
  }
  await cache.commit()
  return last
}

/** One step; with `check`, every layer's output against plain attention over what the layer held before. */
async function feedChecked(cache: KVCache, step: PlannedStep, check: boolean): Promise<string[]> {
  if (!check) {
    await feed(cache, step)
    return []
  }
  const { from, count, phase } = step
  const problems: string[] = []
  cache.begin(new Int32Array(count), phase)
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const held = await heldIn(cache, layer)
    const rows = rowsAt(cache.model, layer, from, count, 1)
    const plain = {
      queries: await fromTensor(rows.queries),
      keys: await fromTensor(rows.keys),
      values: await fromTensor(rows.values),
    }
    const output = await cache.attend(layer, rows)
    const expected = plainAttention(cache.model, held, plain, from, usesSlots(cache, layer))
    const { error, at } = largestError((await fromTensor(output)).data, expected)
    if (!(error <= ATTENTION_TOLERANCE))
      problems.push(
        `attention of layer ${layer} at token ${from} is off by ${error} at element ${at} (tolerance ${ATTENTION_TOLERANCE})`,
      )
    dispose([rows.queries, rows.keys, rows.values, output])
  }
  await cache.commit()
  return problems
}

function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): { error: number; at: number } {
  if (actual.length !== expected.length) return { error: Number.POSITIVE_INFINITY, at: -1 }
  let worst = { error: 0, at: 0 }
  for (let at = 0; at < expected.length; at++) {
    const b = expected[at] ?? Number.NaN
    const error = Math.abs((actual[at] ?? Number.NaN) - b) / (1 + Math.abs(b))
    if (!(error <= worst.error)) worst = { error, at }
    if (Number.isNaN(error)) return worst
  }
  return worst
}

/** Watches rows from the moment they are sealed: their reconstruction, and the bytes of full pages, must stay the same bits. */
class SealedRows {
  private readonly rows = new Map<string, string>()
  private readonly pages = new Map<number, { tensor: Tensor; bytes: string }>()

  /** Sentences on what changed since it was sealed. */
  async look(cache: KVCache): Promise<string[]> {
    const problems: string[] = []
    for (let layer = 0; layer < cache.model.layers; layer++) {
      const held = await heldIn(cache, layer)
      for (const lane of cache.segments(layer))
        for (const part of ['keys', 'values'] as const) {
          let row = 0
          for (const segment of lane[part]) {
            if (segment.zone === 'sealed') {
              if (lane.heads.length === cache.model.kvHeads)
                for (let i = 0; i < segment.rows; i++)
                  problems.push(...this.lookAtRow(layer, part, held[part], held.positions, row + i))
              if (segment.rows === segment.capacity)
                for (const tensor of Object.values(segment.tensors))
                  problems.push(...(await this.lookAtPage(layer, part, tensor)))
            }
            row += segment.rows
          }
        }
    }
    return problems
  }

  private lookAtRow(
    layer: number,
    part: string,
    rows: NdArray,
    positions: readonly Int32Array[],
    row: number,
  ): string[] {
    return positions.flatMap((head, h) => {
      const position = head[row] ?? -1
      if (position < 0) return []
      const key = `${layer} ${part} ${h} ${position}`
      const bits = bitsOfRow(rows, h, row)
      const before = this.rows.get(key) ?? bits
      this.rows.set(key, before)
      return before === bits ? [] : [`sealed ${part} of layer ${layer}, head ${h}, token ${position} changed`]
    })
  }

  private async lookAtPage(layer: number, part: string, tensor: Tensor): Promise<string[]> {
    const { data } = await fromTensor(tensor)
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')
    const before = this.pages.get(tensor.id) ?? { tensor, bytes }
    this.pages.set(tensor.id, before)
    return before.bytes === bytes ? [] : [`a full page of sealed ${part} of layer ${layer} changed`]
  }
}

const isChunkInvariant = ({ card, stages }: KVCompressor): boolean =>
  card.chunkInvariant && stages.every(({ when }) => when !== 'step' && when !== 'room' && typeof when === 'string')

function accepts(compressor: KVCompressor, model: ModelShape): boolean {
  try {
    openCache(model, ready(compressor)).dispose()
    return true
  } catch (error) {
    if (error instanceof ModelMismatch) return false
    throw error
  }
}

async function caught(work: () => Promise<unknown>): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error
  }
  return undefined
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  for await (const chunk of chunks) pieces.push(chunk.slice())
  return Buffer.concat(pieces)
}
