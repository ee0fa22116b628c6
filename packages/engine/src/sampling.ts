// From logits to a token: greedy, or temperature, then the k most likely, then the nucleus (arXiv:1904.09751), in this order.
// All in float64. The draw walks the kept tokens by id, not by rank, so that two near-equal logits that swap ranks on another
// backend do not change which token a random number means.
import { OptionError } from '@kvloom/core'
import { EngineError } from './errors'
import type { UniformRandom } from './random'

/** How the next token is drawn. */
export interface SamplingOptions {
  /** Divides the logits, from 0; 0 is greedy: always the most likely token, the lowest id among equals. Default 0. */
  readonly temperature?: number
  /** Only the k most likely tokens, from 1; lowest ids first among equals. Default: all. */
  readonly topK?: number
  /** Only the most likely tokens that together reach this probability, above 0 up to 1. Default 1: all. */
  readonly topP?: number
}

/** Logits with NaN or +infinity, or with nothing else than -infinity. */
export class LogitsError extends EngineError<'BAD_LOGITS'> {
  override readonly name = 'LogitsError'
}

/** Throws core's `OptionError` for an option out of its range. */
export function checkSampling({ temperature, topK, topP }: SamplingOptions): void {
  if (temperature !== undefined && !(temperature >= 0 && temperature < Infinity))
    throw new OptionError('generate', 'temperature', temperature, 'a number from 0')
  if (topK !== undefined && !(Number.isInteger(topK) && topK >= 1))
    throw new OptionError('generate', 'topK', topK, 'a whole number from 1')
  if (topP !== undefined && !(topP > 0 && topP <= 1))
    throw new OptionError('generate', 'topP', topP, 'a number above 0 and at most 1')
}

/** Tokens that may be drawn, by ascending id, with probabilities that sum to 1. */
export interface Candidates {
  readonly ids: Int32Array
  readonly probabilities: Float64Array
}

/** Id of the largest logit, the lowest among equals. Throws `LogitsError`. */
export function argmax(logits: Float32Array): number {
  let best = -1
  let largest = -Infinity
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? NaN
    if (Number.isNaN(logit) || logit === Infinity) throw badLogits(`logit ${logit} of token ${id}`)
    if (logit > largest) {
      largest = logit
      best = id
    }
  }
  if (best < 0) throw badLogits(`${logits.length} logits, none above -infinity`)
  return best
}

/**
 * The distribution that `sample` draws from.
 * @param logits of one position, `[vocab]`; not changed
 * @throws LogitsError, OptionError
 */
export function candidates(logits: Float32Array, options: SamplingOptions = {}): Candidates {
  checkSampling(options)
  const { temperature = 0, topK = logits.length, topP = 1 } = options
  const best = argmax(logits)
  if (temperature === 0) return { ids: Int32Array.of(best), probabilities: Float64Array.of(1) }
  const largest = logits[best] ?? 0
  let ids = topK < logits.length ? mostLikely(logits, topK) : new Int32Array(logits.length).map((_, id) => id)
  let probabilities = new Float64Array(ids.length)
  for (let i = 0; i < ids.length; i++) probabilities[i] = Math.exp(((logits[ids[i] ?? 0] ?? 0) - largest) / temperature)
  normalise(probabilities)
  if (topP < 1) {
    const kept = nucleus(probabilities, topP)
    const all = { ids, probabilities }
    ids = kept.map((index) => all.ids[index] ?? 0)
    probabilities = Float64Array.from(kept, (index) => all.probabilities[index] ?? 0)
    normalise(probabilities)
  }
  return { ids, probabilities }
}

/** Draws a token id. Greedy uses no random number, anything else exactly one. */
export function sample(logits: Float32Array, options: SamplingOptions, random: UniformRandom): number {
  if (!options.temperature) return argmax(logits)
  const { ids, probabilities } = candidates(logits, options)
  let left = random()
  let last = 0
  for (let i = 0; i < ids.length; i++) {
    const probability = probabilities[i] ?? 0
    if (probability === 0) continue
    last = ids[i] ?? 0
    left -= probability
    if (left < 0) return last
  }
  return last // the sum fell short of 1 by rounding
}

/** Ids of the k largest logits, ascending; of those equal to the k-th, the lowest ids. */
function mostLikely(logits: Float32Array, k: number): Int32Array {
  const border = kthLargest(logits, k)
  let room = k
  for (let id = 0; id < logits.length; id++) if ((logits[id] ?? 0) > border) room--
  const ids = new Int32Array(k)
  let at = 0
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? 0
    if (logit > border || (logit === border && room-- > 0)) ids[at++] = id
  }
  return ids
}

/** Quickselect on a copy (Hoare): a vocabulary is too long to sort for every token. */
function kthLargest(values: Float32Array, k: number): number {
  const work = values.slice()
  let [from, to] = [0, work.length - 1]
  while (from < to) {
    const pivot = work[(from + to) >> 1] ?? 0
    let [left, right] = [from, to]
    while (left <= right) {
      while ((work[left] ?? 0) > pivot) left++
      while ((work[right] ?? 0) < pivot) right--
      if (left > right) break
      const swapped = work[left] ?? 0
      work[left++] = work[right] ?? 0
      work[right--] = swapped
    }
    if (k - 1 <= right) to = right
    else if (k - 1 >= left) from = left
    else break
  }
  return work[k - 1] ?? -Infinity
}

/** Ascending indices of the smallest set of largest probabilities that reaches `topP`; never empty. */
function nucleus(probabilities: Float64Array, topP: number): Int32Array {
  // Tokens below this hold less than 1 - topP together, so the nucleus is among the others; that spares sorting them all.
  const floor = (1 - topP) / probabilities.length
  const ranked: number[] = []
  for (let i = 0; i < probabilities.length; i++) if ((probabilities[i] ?? 0) >= floor) ranked.push(i)
  ranked.sort((a, b) => (probabilities[b] ?? 0) - (probabilities[a] ?? 0) || a - b)
  let sum = 0
  let size = 0
  while (size < ranked.length && sum < topP) sum += probabilities[ranked[size++] ?? 0] ?? 0
  return Int32Array.from(ranked.slice(0, size)).sort()
}

function normalise(weights: Float64Array): void {
  let sum = 0
  for (const weight of weights) sum += weight
  for (let i = 0; i < weights.length; i++) weights[i] = (weights[i] ?? 0) / sum
}

function badLogits(given: string): LogitsError {
  return new LogitsError('BAD_LOGITS', {
    given,
    allowed: 'finite logits (some may be -infinity)',
    cure: 'The weights or the cache hold values that overflow; check the model file and the compressor.',
  })
}
