/** Feeds a cache step by step, with or without checking its attention against the plain reference. */
import { type KVCache, type Phase, type ReplayTexts, takeTurn } from '@kvloom/core'
import { fromTensor, type NdArray } from '@kvloom/golden'
import { dispose } from '@tensorflow/tfjs-core'
import { type Held, heldIn, liveRows, usesSlots } from './held'
import type { RecallWatch } from './recall-watch'
import { plainAttention } from './reference'
import { rowsAt, type StepRows, tokensAt } from './shapes'

/** How far f32 products and sums may be from double precision, relative to 1 + |reference|. */
const ATTENTION_TOLERANCE = 2e-5

export interface PlannedStep {
  readonly from: number
  readonly count: number
  readonly phase: Phase
}

/**
 * The steps of a prompt, in as few chunks as the cache allows at each, and of single tokens behind it.
 * @param start where in the sequence it begins
 */
export function* stepsOf(cache: KVCache, prompt: number, decode: number, start = 0): Generator<PlannedStep> {
  const end = start + prompt
  for (let from = start; from < end; ) {
    const count = Math.min(end - from, cache.chunkLimit)
    yield { from, count, phase: from + count < end ? 'prompt' : 'promptEnd' }
    from += count
  }
  yield* tail(end, decode)
}

/** The steps of a prompt that is cut into `sizes` and the rest. */
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

/** The steps of single tokens. */
export const tail = (from: number, count: number): PlannedStep[] =>
  Array.from({ length: count }, (_, i) => ({ from: from + i, count: 1, phase: 'decode' }))

/** Takes one step through all layers and returns every layer's output. A layer that reads another one's rows is handed queries only. */
export async function feed(cache: KVCache, { from, count, phase }: PlannedStep, seed = 1): Promise<NdArray[]> {
  await takeTurn()
  cache.begin(tokensAt(from, count), phase)
  const outputs: NdArray[] = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const rows = rowsAt(cache.model, layer, from, count, seed)
    const shares = cache.sourceLayer(layer) !== layer
    const output = await cache.attend(layer, shares ? { queries: rows.queries } : rows)
    outputs.push(await fromTensor(output))
    dispose([...Object.values(rows), output])
  }
  await cache.commit()
  await readAgain(cache)
  return outputs
}

/** Ids of texts that are no model's. */
const TEXTS: ReplayTexts = {
  encode: (text) => Int32Array.from(text, (character) => character.charCodeAt(0) % 100),
  beforeAnswer: () => '',
}

/** Lets a cache that waits for it read its context again, as an engine does. */
async function readAgain(cache: KVCache): Promise<void> {
  const { replay } = cache
  if (!replay) return
  for (const pass of replay.passes(TEXTS)) {
    const copy = replay.open(pass)
    await feed(copy, { from: copy.tokensSeen, count: pass.tokens.length, phase: 'prompt' }, 7)
    copy.dispose()
  }
  await replay.finish()
}

/** Replaces the rows of a step by others, and says what that does to the precision of an answer. */
export interface Changed {
  /** Takes over the rows of a layer and returns others. */
  readonly rows: (layer: number, rows: StepRows) => StepRows
  readonly tolerance: number
}

/**
 * Takes one step and checks every layer's attention against the rows that the layer read. Returns sentences on what is wrong. A layer is left
 * out when nobody can tell afterwards what it read: when it read its own rows as they are stored and dropped some of them in the same
 * step, or when a recall selected in some of the large lanes of a ragged layer and not in all.
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
  await takeTurn()
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
  await readAgain(cache)
  return problems
}

/** Whether rows may have been dropped or rewritten after a step attended to them and before the layer's work in that step ended. */
function changedAfter(cache: KVCache, { count, phase }: PlannedStep, before: Held, after: Held): boolean {
  const waits = cache.compressor.stages.some(({ when }) => when === 'promptEnd')
  const grew = after.every((head, h) => liveRows(head) === (before[h] ? liveRows(before[h]) : 0) + count)
  return (waits && phase === 'promptEnd') || !grew
}

/** The largest difference, relative to 1 + |expected|. */
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

/** An error lists at most so many sentences. */
const LISTED = 20

/** Fails with all that is wrong in its message. Runners shorten lists that they compare, so it does not compare one. */
export function expectNone(problems: readonly string[]): void {
  if (problems.length === 0) return
  const more = problems.length > LISTED ? [`and ${problems.length - LISTED} more`] : []
  throw new Error([...problems.slice(0, LISTED), ...more].join('\n'))
}
