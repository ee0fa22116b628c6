/** Feeding a cache step by step, with or without checking its attention against the plain reference. */
import type { KVCache, Phase } from '@kvloom/core'
import { fromTensor, type NdArray } from '@kvloom/golden'
import { dispose } from '@tensorflow/tfjs-core'
import { type Held, heldIn, liveRows, usesSlots } from './held'
import type { RecallWatch } from './recall-watch'
import { plainAttention } from './reference'
import { rowsAt, type StepRows, tokensAt } from './shapes'

/** f32 products and sums against double precision, relative to 1 + |reference|. */
const ATTENTION_TOLERANCE = 2e-5

export interface PlannedStep {
  readonly from: number
  readonly count: number
  readonly phase: Phase
}

/** A prompt, in as few chunks as the cache allows at each step, and single tokens. */
export function* stepsOf(cache: KVCache, prompt: number, decode: number): Generator<PlannedStep> {
  for (let from = 0; from < prompt; ) {
    const count = Math.min(prompt - from, cache.chunkLimit)
    yield { from, count, phase: from + count < prompt ? 'prompt' : 'promptEnd' }
    from += count
  }
  yield* tail(prompt, decode)
}

/** A prompt cut into `sizes` and the rest. */
export function cut(prompt: number, sizes: readonly number[]): PlannedStep[] {
  const steps: PlannedStep[] = []
  let from = 0
  for (const count of sizes) {
    if (from + count >= prompt) break
    steps.push({ from, count, phase: 'prompt' })
    from += count
  }
  return [...steps, { from, count: prompt - from, phase: 'promptEnd' }]
}

/** Single tokens. */
export const tail = (from: number, count: number): PlannedStep[] =>
  Array.from({ length: count }, (_, i) => ({ from: from + i, count: 1, phase: 'decode' }))

/** One step through all layers; every layer's output. A layer that shares is handed queries only. */
export async function feed(cache: KVCache, { from, count, phase }: PlannedStep, seed = 1): Promise<NdArray[]> {
  cache.begin(tokensAt(from, count), phase)
  const outputs: NdArray[] = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const { queries, keys, values } = rowsAt(cache.model, layer, from, count, seed)
    const shares = cache.sourceLayer(layer) !== layer
    const output = await cache.attend(layer, shares ? { queries } : { queries, keys, values })
    outputs.push(await fromTensor(output))
    dispose([queries, keys, values, output])
  }
  await cache.commit()
  return outputs
}

/** Rows of a step that are not those of the sequence, and what that does to the precision of an answer. */
export interface Changed {
  /** Takes the rows of a layer over and gives others. */
  readonly rows: (layer: number, rows: StepRows) => StepRows
  readonly tolerance: number
}

/**
 * One step whose attention is checked, every layer's against what it read; sentences on what is wrong. Left out is a layer of which that cannot
 * be told afterwards: rows read as they are stored and dropped in the same turn, and some, not all, large lanes of a ragged layer recalled.
 */
export async function feedChecked(
  cache: KVCache,
  step: PlannedStep,
  watch: RecallWatch,
  changed: Changed = { rows: (_, rows) => rows, tolerance: ATTENTION_TOLERANCE },
): Promise<string[]> {
  const { from, count, phase } = step
  const problems: string[] = []
  const stored = cache.compressor.ownRows === 'stored'
  cache.begin(tokensAt(from, count), phase)
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const source = cache.sourceLayer(layer)
    const before = await heldIn(cache, layer)
    const rows = (of: number) => changed.rows(of, rowsAt(cache.model, of, from, count, 1))
    const [mine, own] = [rows(layer), rows(source)]
    const plain = {
      queries: await fromTensor(mine.queries),
      keys: await fromTensor(own.keys),
      values: await fromTensor(own.values),
    }
    watch.forget()
    let actual: ArrayLike<number>
    try {
      const output = await cache.attend(layer, source === layer ? mine : { queries: mine.queries })
      actual = (await fromTensor(output)).data
      output.dispose()
    } finally {
      dispose([...Object.values(mine), ...Object.values(own)])
    }
    const held = stored ? await heldIn(cache, layer) : before
    const reads = watch.readsOf(cache, layer, held)
    if (!reads || (stored && changedAfter(cache, step, before, held))) continue
    const reading = { start: from, slots: usesSlots(cache, layer), stored, reads }
    const { error, at } = largestError(actual, plainAttention(cache.model, held, plain, reading))
    if (!(error <= changed.tolerance))
      problems.push(
        `attention of layer ${layer} at token ${from} is off by ${error} at element ${at} (tolerance ${changed.tolerance})`,
      )
  }
  await cache.commit()
  return problems
}

/** Whether rows may have been dropped or rewritten between a step's attention to them and the end of the layer's turn. */
function changedAfter(cache: KVCache, { count, phase }: PlannedStep, before: Held, after: Held): boolean {
  const waits = cache.compressor.stages.some(({ when }) => when === 'promptEnd')
  const grew = after.every((head, h) => liveRows(head) === (before[h] ? liveRows(before[h]) : 0) + count)
  return (waits && phase === 'promptEnd') || !grew
}

/** Relative to 1 + |expected|. */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): { error: number; at: number } {
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

/** Most sentences that an error lists. */
const LISTED = 20

/** Fails with all that is wrong in its message, which runners shorten when they compare lists. */
export function expectNone(problems: readonly string[]): void {
  if (problems.length === 0) return
  const more = problems.length > LISTED ? [`and ${problems.length - LISTED} more`] : []
  throw new Error([...problems.slice(0, LISTED), ...more].join('\n'))
}
