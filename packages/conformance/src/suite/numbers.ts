/** Feeds numbers that a cache can hardly hold, or not at all. What follows must be a typed error or a right answer. */
import { CacheStateError, type KVCache, NonFiniteError } from '@kvloom/core'
import { buffer, dispose, type Tensor3D } from '@tensorflow/tfjs-core'
import { differenceOf, heldIn, snapshot } from './held'
import type { StepRows } from './shapes'
import { tokensAt } from './shapes'
import { feed, feedChecked, stepsOf } from './steps'
import type { Bench } from './turns'

const PARTS = ['queries', 'keys', 'values'] as const
type StepPart = (typeof PARTS)[number]

/** This number fits into f16, but not once a rotation or a norm has made it larger. */
const LARGE = 65000

/** With a number of that size scores reach 3e4, where f32 has two decimals left. Relative to 1 + |reference|. */
const LARGE_TOLERANCE = 5e-2

/** Sentences on what NaN, infinity and a large number in each of queries, keys and values do to a cache of so many tokens. */
export async function strangeNumbers(bench: Bench, prompt: number): Promise<string[]> {
  const problems: string[] = []
  for (const part of PARTS)
    for (const number of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, LARGE])
      for (const layer of [0, 1]) {
        const cache = bench.open()
        const acts = layer < cache.model.layers && (part === 'queries' || cache.sourceLayer(layer) === layer)
        if (acts) {
          for (const step of stepsOf(cache, prompt, 2)) await feed(cache, step)
          const found = await oneNumber(bench, cache, layer, part, number)
          problems.push(...found.map((problem) => `${number} in the ${part} of layer ${layer}: ${problem}`))
        }
        cache.dispose()
      }
  return problems
}

async function oneNumber(
  { watch }: Bench,
  cache: KVCache,
  at: number,
  part: StepPart,
  number: number,
): Promise<readonly string[]> {
  const before = await snapshot(cache)
  const step = { from: cache.tokensSeen, count: 1, phase: 'decode' } as const
  const rows = (layer: number, given: StepRows): StepRows => (layer === at ? withNumber(given, part, number) : given)
  try {
    const problems = await feedChecked(cache, step, watch, { rows, tolerance: LARGE_TOLERANCE })
    if (!Number.isFinite(number)) return ['an answer, and no NonFiniteError']
    return [...problems, ...(await staysFinite(cache))]
  } catch (error) {
    if (!(error instanceof NonFiniteError)) return [error instanceof Error ? error.message : String(error)]
    return at === 0 ? stillWhole(cache, before) : broken(cache)
  }
}

/** Replaces the first number of one part. It takes the rows over. */
function withNumber(rows: StepRows, part: StepPart, number: number): StepRows {
  const given = rows[part] as Tensor3D
  const values = buffer(given.shape, 'float32', Float32Array.from(given.dataSync<'float32'>()))
  values.set(number, 0, 0, 0)
  given.dispose()
  return { ...rows, [part]: values.toTensor() }
}

/** After so many tokens a large number has left the window, where the window is small. */
const LATER = 40

/** Checks rows that were stored once they are sealed, and the answers that come after them. */
async function staysFinite(cache: KVCache): Promise<string[]> {
  const problems: string[] = []
  for (let i = 0; i < LATER; i++) problems.push(...(await answersOn(cache)))
  if (problems.length > 0) return problems.slice(0, 1)
  for (let layer = 0; layer < cache.model.layers; layer++)
    for (const { keys, values } of await heldIn(cache, layer))
      if (![...keys, ...values].every((row) => row.every(Number.isFinite)))
        problems.push(`layer ${layer} holds rows that are not finite`)
  return problems
}

async function answersOn(cache: KVCache): Promise<string[]> {
  const answers = await feed(cache, { from: cache.tokensSeen, count: 1, phase: 'decode' })
  return answers.every(({ data }) => data.every(Number.isFinite)) ? [] : ['the next answer is not finite']
}

/** Checks that a refusal at the first layer changes nothing, and that the step can be taken again. */
async function stillWhole(cache: KVCache, before: readonly string[]): Promise<string[]> {
  const difference = differenceOf(await snapshot(cache), before)
  return difference ? [`what is held changed: ${difference}`] : answersOn(cache)
}

/** Checks a refusal after a layer has stored its rows. The step cannot be taken back then: the cache says so, and what it holds stays readable. */
async function broken(cache: KVCache): Promise<string[]> {
  const { keys, values } = await cache.materialize(cache.sourceLayer(0))
  dispose([keys, values])
  try {
    cache.begin(tokensAt(cache.tokensSeen, 1), 'decode')
  } catch (error) {
    return error instanceof CacheStateError ? [] : [`afterwards ${String(error)}`]
  }
  return ['the second layer was refused, and the cache goes on as if it had not been']
}
