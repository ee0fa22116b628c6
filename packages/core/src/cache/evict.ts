/** Evicts: once a step's rows are appended, the rows of a layer are scored and picked, and those that are not picked are dropped. */
import { selectTop } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { BudgetStage, Protected, Scorer, When } from '../contract'
import { UnsupportedStage } from '../errors'
import { bothProtect, floorOf, liftProtected } from '../protect'
import { keepRanges, keepRows } from './drop'
import type { Lane, LaneContext } from './lane'
import { type LayerCache, queryHeadsOf, type Step, seenAfter } from './layer'
import { observe, type Ring, type Sight } from './observe'
import { isRanges, liveToStored } from './room'
import { toDevice } from './rows/host'

/** What a step leaves for the stages that look at it. */
export type Seen = Omit<Sight, 'lane' | 'queryHeads' | 'replayed'>

/** What a layer was handed of a step beside its rows: queries before RoPE, and hidden states `[n, hidden]` where it wants them. */
export interface Watched {
  readonly queries: tf.Tensor
  readonly hidden: tf.Tensor | null
}

/**
 * Prepares what the stages of a layer may look at after this step, from its queries (before RoPE), and remembers the queries where a stage
 * looks back at them. It is null when no stage looks at this step; `forget` frees it.
 */
export function watch(
  layer: LayerCache,
  { queries, hidden: states }: Watched,
  step: Step,
  context: LaneContext,
): Seen | null {
  const { ring, hidden, plan } = layer
  const { phase } = step
  // A stage that acts at the end of a prompt does not look at the queries of decoded tokens.
  const evicts = evictsIn(layer, step)
  if (!evicts && !(plan.fitsPrompt && phase !== 'decode')) return null
  const rotated = step.state.rotation.rotate(queries) as tf.Tensor3D
  const watches = ring !== null && !(ring.ofPrompt && phase === 'decode')
  if (watches) ring.push(rotated)
  if (hidden && states) remember(hidden, states)
  if (watches || hidden || actsNow(layer, step) || plan.fitsPrompt) layer.changed = true
  return { stepQueries: rotated, ring, hidden, context, tokenIds: step.tokenIds }
}

function remember(ring: Ring, states: tf.Tensor): void {
  const rows = tf.expandDims(states as tf.Tensor2D, 0) as tf.Tensor3D
  ring.push(rows)
  rows.dispose()
}

/** Ends what `watch` began, once the stages of a layer have looked. */
export function forget({ ring, hidden, undecided, plan }: LayerCache, { stepQueries }: Seen, { phase }: Step): void {
  if (undecided.tensor === stepQueries) undecided.replace(null)
  else stepQueries.dispose()
  const acting = plan.score?.when ?? plan.pick?.when
  const onlyAtEnd = acting === undefined || acting === 'room' || acting === 'promptEnd'
  if (phase === 'promptEnd' && (ring?.ofPrompt || onlyAtEnd)) ring?.replace(null)
  if (phase === 'promptEnd' && onlyAtEnd) hidden?.replace(null)
}

/** Whether an eviction looks at this step, if only to remember its queries. */
function evictsIn({ plan }: LayerCache, { phase }: Step): boolean {
  const acting = plan.score?.when ?? plan.pick?.when
  return acting !== undefined && acting !== 'room' && (acting !== 'promptEnd' || phase !== 'decode')
}

/** Whether the eviction of a layer acts after this step. */
export function actsNow(layer: LayerCache, step: Step): boolean {
  return evictsIn(layer, step) && acts(layer.plan.score?.when ?? layer.plan.pick?.when, step)
}

/**
 * Whether a stage acts now: `step` after every append, `promptEnd` at the end of a prompt, `everyTokens` when a multiple is reached or
 * passed, and at the end of a prompt.
 */
function acts(when: When | undefined, step: Step): boolean {
  if (when === 'step') return true
  if (when === 'promptEnd') return step.phase === 'promptEnd'
  if (typeof when === 'object') {
    const n = when.everyTokens
    return step.phase === 'promptEnd' || Math.floor(seenAfter(step) / n) > Math.floor(step.start / n)
  }
  return false
}

/** Scores the rows of a layer and drops those that are not picked. */
export async function evict(layer: LayerCache, seen: Seen, step: Step): Promise<void> {
  const { score, pick, budget } = layer.plan
  const { lanes } = layer
  if (!score) {
    if (!pick) return
    for (const [i, lane] of lanes.entries()) {
      const count = atLeast(layer, lane, pick.does.count(lane.liveRows, 0), pick.id)
      await pickRows(layer, lane, i, null, count, seen, step)
    }
    return
  }
  const uniform = uniformCounts(layer, step)
  if (dropsNothing(layer, uniform) && !budget && !score.does.columns && !pick?.does.ragged) return
  const scores = lanes.map((lane) => scoresOf(layer, lane, score.does, seen, step))
  const [counts = uniform] = budget ? await sharedOut(budget, [{ layer, scores, uniform }], step) : []
  await keepBest(layer, scores, counts, seen, step)
  tf.dispose(scores)
}

/** How many rows of each lane the scorer of a layer keeps when no budget stage says otherwise. */
export function uniformCounts(layer: LayerCache, step: Step): readonly number[] {
  const { score } = layer.plan
  const seen = seenAfter(step)
  return layer.lanes.map((lane) =>
    score ? atLeast(layer, lane, score.does.count(lane.liveRows, seen), score.id) : lane.liveRows,
  )
}

export const dropsNothing = ({ lanes }: LayerCache, counts: readonly number[]): boolean =>
  lanes.every((lane, i) => counts[i] === lane.liveRows)

/** Keeps `counts[i]` rows of each lane: those that the pick takes, or the ones with the largest scores. */
export async function keepBest(
  layer: LayerCache,
  scores: readonly tf.Tensor2D[],
  counts: readonly number[],
  seen: Seen,
  step: Step,
): Promise<void> {
  for (const [i, lane] of layer.lanes.entries())
    await pickRows(layer, lane, i, scores[i] ?? null, counts[i] ?? lane.liveRows, seen, step)
}

/** The rows that stay whatever scores and counts say. */
export const promisedBy = ({ plan }: LayerCache): Protected =>
  bothProtect(plan.score?.does.protect, plan.pick?.does.protect)

/** Raises a count that stage `by` asked for to the promised rows, and lowers it to what a lane holds. */
export function atLeast(layer: LayerCache, { liveRows }: Lane, count: number, by: string): number {
  if (!Number.isInteger(count))
    throw new UnsupportedStage(by, `it would keep ${count} of ${liveRows} rows. Let it count whole rows.`)
  return Math.min(liveRows, Math.max(count, floorOf(liveRows, promisedBy(layer))))
}

/**
 * Asks the scorer for the scores of a lane: `[heads, rows]`, or `[1, rows]` where heads share their tokens. Protected rows get infinity,
 * dropped rows -infinity.
 */
export function scoresOf(layer: LayerCache, lane: Lane, scorer: Scorer, seen: Seen, step: Step): tf.Tensor2D {
  const id = layer.plan.score?.id ?? 'a scorer'
  const replayed = layer.replayed[layer.lanes.indexOf(lane)]?.tensor ?? null
  const observed = observe(scorer.needs, { ...seen, lane, queryHeads: queryHeadsOf(lane), replayed })
  const columns = Object.fromEntries((scorer.columns ?? []).map((name) => [name, lane.columns.ensure(name, lane.rows)]))
  const result = tf.tidy(() => {
    const out = scorer.score(observed.seen, columns, { phase: step.phase, tokensSeen: seenAfter(step) })
    const scores = out && 'scores' in out ? out.scores : out
    const next = out && 'scores' in out ? out.columns : {}
    const heads = lane.shape.heads.length
    checkShape(id, 'scores', scores, [
      [heads, lane.rows],
      [1, lane.rows],
    ])
    for (const [name, column] of Object.entries(next)) checkShape(id, `column ${name}`, column, [[heads, lane.rows]])
    const each = lifted(lane, scores as tf.Tensor2D, promisedBy(layer))
    return {
      scores: layer.plan.tokenSets === 'head' ? each : (tf.mean(each, 0, true) as tf.Tensor2D),
      next: Object.fromEntries(Object.entries(next).map(([k, t]) => [k, tf.clone(t)])),
    }
  })
  for (const [name, column] of Object.entries(result.next)) lane.columns.set(name, column as tf.Tensor2D)
  observed.dispose()
  return result.scores
}

/** A layer that a budget is shared out over: scores and equal counts of its lanes. */
export interface Scored {
  readonly layer: LayerCache
  readonly scores: readonly tf.Tensor2D[]
  readonly uniform: readonly number[]
}

/** Rows that each lane of each layer keeps, as a budget stage shares them out over the heads of all these layers. */
export async function sharedOut(
  budget: BudgetStage,
  scored: readonly Scored[],
  step: Step,
): Promise<readonly (readonly number[])[]> {
  const perHead = scored.flatMap(({ scores }) => scores.flatMap((s) => tf.tidy(() => tf.split(s, s.shape[0], 0))))
  const heads = scored.flatMap(({ layer, scores, uniform }) =>
    layer.lanes.flatMap((lane, i) =>
      Array.from({ length: scores[i]?.shape[0] ?? 0 }, () => ({
        rows: lane.liveRows,
        seen: seenAfter(step),
        uniform: uniform[i] ?? lane.liveRows,
        floor: floorOf(lane.liveRows, promisedBy(layer)),
      })),
    ),
  )
  const mean = Math.trunc(heads.reduce((sum, head) => sum + head.uniform, 0) / heads.length)
  const counts = await budget.counts(perHead, mean, heads)
  tf.dispose(perHead)
  let at = 0
  return scored.map(({ layer, scores }) =>
    layer.lanes.map((lane, i) => {
      const count = counts[at] ?? lane.liveRows
      at += scores[i]?.shape[0] ?? 0
      return atLeast(layer, lane, count, 'budget')
    }),
  )
}

async function pickRows(
  layer: LayerCache,
  lane: Lane,
  number: number,
  scores: tf.Tensor2D | null,
  count: number,
  seen: Seen,
  step: Step,
): Promise<void> {
  const { pick } = layer.plan
  if (count >= lane.liveRows && !pick?.does.ragged) return
  forgetIndex(layer, lane, number)
  if (!pick) {
    if (scores) await keepRows(lane, selectTop(scores, count) as tf.Tensor2D, count)
    return
  }
  const observed = observe(pick.does.needs, { ...seen, lane, queryHeads: queryHeadsOf(lane), replayed: null })
  const tokens = scores ? lane.rows : lane.liveRows
  const kept = await pick.does.keep(tokens, count, scores, observed.seen, layer.pickContext(number, step))
  observed.dispose()
  if (isRanges(kept)) {
    keepRanges(lane, scores ? kept : liveToStored(lane, kept), pick.does.positions === 'slot')
    return
  }
  // A ragged pick says by its mask how many rows stay. So promised rows are marked in it, and the newest row where the mask would leave none.
  const marked = (protect: Protected): tf.Tensor2D =>
    tf.tidy(() => lifted(lane, tf.cast(kept, 'float32') as tf.Tensor2D, protect))
  let mask = marked(pick.does.ragged ? promisedBy(layer) : {})
  let keeps = pick.does.ragged ? await countOf(mask) : count
  if (keeps === 0) {
    mask.dispose()
    mask = marked({ last: 1 })
    keeps = 1
  }
  kept.dispose()
  if (keeps < lane.liveRows) await keepRows(lane, selectTop(mask, keeps) as tf.Tensor2D, keeps)
  mask.dispose()
}

/**
 * Prepares a recall for rows that are about to be dropped: it forgets its index, which goes by row numbers, and brings rows back from host
 * memory.
 */
function forgetIndex({ recall }: LayerCache, lane: Lane, number: number): void {
  const index = recall[number]
  if (!index || index.indexed === 0) return
  index.dispose()
  for (const part of lane.parts) toDevice(part)
}

/** @throws UnsupportedStage when a stage returned no tensor of one of these shapes */
function checkShape(
  id: string,
  what: string,
  given: tf.Tensor | undefined,
  allowed: readonly (readonly number[])[],
): void {
  if (given instanceof tf.Tensor && allowed.some((shape) => tf.util.arraysEqual(given.shape, [...shape]))) return
  const found = given instanceof tf.Tensor ? `shape [${given.shape.join(', ')}]` : String(given)
  throw new UnsupportedStage(
    id,
    `it returned ${what} of ${found}; allowed: ${allowed.map((shape) => `[${shape.join(', ')}]`).join(' or ')}.`,
  )
}

/** How many rows a mask `[1, tokens]` marks. */
async function countOf(mask: tf.Tensor): Promise<number> {
  const ones = tf.tidy(() => tf.sum(tf.cast(tf.greater(mask, 0), 'int32')))
  const [n = 0] = await ones.data()
  ones.dispose()
  return n
}

/** Lifts protected rows to infinity and lowers dropped ones to -infinity. */
function lifted(lane: Lane, scores: tf.Tensor2D, protect: Protected): tf.Tensor2D {
  if ((protect.first ?? 0) + (protect.last ?? 0) > 0) return liftProtected(scores, lane.live.marks, protect)
  const mask = lane.live.tensor(0)
  if (!mask) return tf.clone(scores)
  const [heads] = mask.shape
  const each = scores.shape[0] === heads ? scores : tf.tile(scores, [heads, 1])
  return tf.where(tf.cast(mask, 'bool'), each, tf.fill(each.shape, Number.NEGATIVE_INFINITY)) as tf.Tensor2D
}
