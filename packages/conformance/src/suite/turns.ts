/** Feeds one cache several prompts after each other, cut into chunks and followed by decoded tokens, and watches every step. */
import type { KVCache, KVCompressor, ModelShape } from '@kvloom/core'
import type { NdArray } from '@kvloom/golden'
import { memory } from '@tensorflow/tfjs-core'
import { differenceOf, sameBits, snapshot } from './held'
import { brokenPromises, sizesOf } from './promises'
import type { RecallWatch } from './recall-watch'
import { deadRowsIn, slackIn } from './resident'
import { SealedRows } from './sealed-rows'
import { seeded } from './shapes'
import { feed, feedChecked, type PlannedStep } from './steps'

/** What a test works with: it opens and restores caches of one compressor on one model. */
export interface Bench {
  readonly open: () => KVCache
  readonly restore: (bytes: Uint8Array) => KVCache
  readonly watch: RecallWatch
}

/** A prompt and the tokens decoded after it. */
export interface Turn {
  readonly prompt: number
  /** The most tokens that a step of the prompt has. */
  readonly chunk: number
  readonly decode: number
}

const ALL = Number.POSITIVE_INFINITY

/** The longest prompt that is tried. */
const LONGEST = 400

/**
 * Collects prompts of 1 and 2 tokens, of about every size at which the compressor acts, and of 5 times the largest such size, in chunks of 1, 7
 * and all. Prompts of 1, of 3 and of many tokens follow each on the same cache.
 */
export function turnsOf(compressor: KVCompressor, model: ModelShape, seed: number): readonly (readonly Turn[])[] {
  const random = seeded(seed)
  const sizes = sizesOf(compressor, model).filter((n) => n <= LONGEST / 2)
  const largest = sizes.at(-1) ?? 8
  const prompts = [1, 2, ...sizes.flatMap((n) => [n - 1, n, n + 1]), Math.min(LONGEST, 5 * largest)]
  const chunks = [1, 7, ALL]
  const further = [1, 3, Math.min(largest + 5, 60)]
  const start = Math.floor(3 * random())
  return [...new Set(prompts)].map((prompt, i) => {
    const order = i % 2 === 0 ? further : [...further].reverse()
    return [
      { prompt, chunk: prompt > 100 ? ALL : (chunks[(start + i) % 3] ?? ALL), decode: 2 },
      ...order.map((n, j) => ({ prompt: n, chunk: chunks[(start + i + j) % 3] ?? ALL, decode: 1 + j })),
    ]
  })
}

/** The steps of one turn, a prompt with what is decoded after it, in as few chunks as turn and cache allow at each. */
export function* turnSteps(cache: KVCache, { prompt, chunk, decode }: Turn): Generator<PlannedStep> {
  const end = cache.tokensSeen + prompt
  while (cache.tokensSeen < end) {
    const from = cache.tokensSeen
    const count = Math.min(end - from, chunk, cache.chunkLimit)
    yield { from, count, phase: from + count < end ? 'prompt' : 'promptEnd' }
  }
  for (let i = 0; i < decode; i++) yield { from: cache.tokensSeen, count: 1, phase: 'decode' }
}

/**
 * Runs a cache through these turns and returns sentences on what is wrong: with attention at the ends of prompts, promised rows, rows of every
 * head, sealed rows, or bytes; or with a fork and a restored copy, made after the first turn, that do not go on as it does.
 */
export async function runTurns({ open, restore, watch }: Bench, turns: readonly Turn[]): Promise<string[]> {
  const base = memory().numBytes
  const cache = open()
  const sealed = new SealedRows()
  const problems: string[] = []
  const answers: NdArray[][] = []
  const resting = turns.map((t) => `${t.prompt} in chunks of ${t.chunk}`).join(', then ')
  let prompts = 0
  try {
    for (const turn of turns)
      for (const step of turnSteps(cache, turn)) {
        const ends = step.phase === 'promptEnd'
        if (ends) problems.push(...(await feedChecked(cache, step, watch)))
        else answers.push(await feed(cache, step))
        if (ends) prompts++
        problems.push(...slackIn(cache, prompts))
        const grown = memory().numBytes - base
        if (cache.bytes().total !== grown)
          problems.push(
            `after ${cache.tokensSeen} tokens the ledger says ${cache.bytes().total} bytes, tf.memory() ${grown}`,
          )
        if (step.phase !== 'prompt') {
          problems.push(...(await brokenPromises(cache)), ...(await deadRowsIn(cache)), ...(await sealed.look(cache)))
          if (answers.at(-1)?.some(({ data }) => !data.every(Number.isFinite))) problems.push('an answer is not finite')
        }
        if (problems.length > 0) return [...problems, `(prompts of ${resting})`]
      }
    problems.push(...watch.problems())
    const whole = await snapshot(cache)
    problems.push(...(await goesOn({ open, restore, watch }, turns, answers, whole)))
    return problems
  } finally {
    cache.dispose()
  }
}

/** Checks that a fork and a restored cache, made after the first turn, answer and end as the cache that went on. */
async function goesOn(
  { open, restore }: Bench,
  turns: readonly Turn[],
  answers: readonly (readonly NdArray[])[],
  whole: readonly string[],
): Promise<string[]> {
  const [first, ...rest] = turns
  if (!first || rest.length === 0) return []
  const trunk = open()
  const others: KVCache[] = []
  try {
    for (const step of turnSteps(trunk, first)) await feed(trunk, step)
    others.push(trunk.fork(), restore(await collect(trunk.serialize())))
    trunk.dispose()
    for (const [i, name] of ['fork', 'restored cache'].entries()) {
      const cache = others[i]
      if (!cache) continue
      const mine: NdArray[][] = []
      for (const turn of rest)
        for (const step of turnSteps(cache, turn)) {
          const answer = await feed(cache, step)
          if (step.phase !== 'promptEnd') mine.push(answer)
        }
      const expected = answers.slice(answers.length - mine.length)
      if (mine.some((answer, n) => !sameBits(answer, expected[n] ?? [])))
        return [`a ${name} answers a further prompt differently`]
      const difference = differenceOf(await snapshot(cache), whole)
      if (difference) return [`after further prompts on a ${name}, ${difference}`]
    }
    return []
  } finally {
    trunk.dispose()
    for (const cache of others) cache.dispose()
  }
}

/** All bytes of a serialised cache. */
export async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  for await (const chunk of chunks) pieces.push(chunk.slice())
  return Buffer.concat(pieces)
}

/** Decodes one token after another, and returns sentences on bytes that grow when no row does. */
export async function runLong({ open }: Pick<Bench, 'open'>, prompt: number, steps: number): Promise<string[]> {
  const base = memory().numBytes
  const cache = open()
  const problems: string[] = []
  try {
    for (const step of turnSteps(cache, { prompt, chunk: ALL, decode: steps })) {
      await feed(cache, step)
      problems.push(...slackIn(cache, 1))
      const grown = memory().numBytes - base
      if (cache.bytes().total !== grown)
        problems.push(
          `after ${cache.tokensSeen} tokens the ledger says ${cache.bytes().total} bytes, tf.memory() ${grown}`,
        )
      if (problems.length > 0) return problems
    }
    return await deadRowsIn(cache)
  } finally {
    cache.dispose()
  }
}
