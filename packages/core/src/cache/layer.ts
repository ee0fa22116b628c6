/** One layer's cache: its lanes, and the stages that act on it after an append: score, budget, pick, seal. */
import { selectTop } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Phase, RowRange, Scorer, When } from '../contract'
import { UnsupportedStage } from '../errors'
import type { StepRotation } from '../rope'
import { Lane } from './lane'
import { observe, QueryRing, type Sight } from './observe'
import type { Account } from './page'
import type { LayerPlan } from './plan'

/** This step's tensors and place in the sequence. */
export interface Step {
  readonly phase: Phase
  /** Original position of the first new token. */
  readonly start: number
  readonly count: number
  readonly rotation: StepRotation
}

export class LayerCache {
  lanes: Lane[]
  readonly ring: QueryRing | null

  constructor(
    readonly plan: LayerPlan,
    account: Account,
  ) {
    this.lanes = plan.lanes.map((shape) => new Lane(shape, account))
    this.ring = plan.ring > 0 ? new QueryRing(plan.ring, account) : null
  }

  /** Drops rows before an append (stages with `when: 'room'`). */
  room(incoming: number): void {
    const { pick } = this.plan
    if (pick?.when !== 'room') return
    for (const lane of this.lanes) {
      const tokens = lane.liveRows
      const count = pick.does.count(tokens, incoming)
      if (count >= tokens) continue
      const kept = pick.does.keep(tokens, count, null, {})
      if (!isRanges(kept))
        throw new UnsupportedStage(pick.id, 'a pick that makes room before an append must return row ranges.')
      lane.keepRanges(liveToStored(lane, kept), pick.does.positions === 'slot')
    }
  }

  /** Attention of queries (before RoPE) over what is stored and this step's own rows; `[queryHeads, n, valueDim]`. */
  attend(
    queries: tf.Tensor,
    own: { keys: tf.Tensor; values: tf.Tensor; n: number } | null,
    rotation: StepRotation,
  ): tf.Tensor {
    const [only] = this.lanes
    if (this.lanes.length === 1 && only) return only.attend(queries, own, rotation)
    const outputs = this.lanes.map((lane) => {
      const q = laneSlice(queries, this.queryHeads(lane))
      const mine = own && {
        keys: laneSlice(own.keys, kvHeads(lane)),
        values: laneSlice(own.values, kvHeads(lane)),
        n: own.n,
      }
      const out = lane.attend(q, mine, rotation)
      tf.dispose(mine ? [q, mine.keys, mine.values] : [q])
      return out
    })
    const all = tf.concat(outputs, 0)
    tf.dispose(outputs)
    return all
  }

  private queryHeads(lane: Lane) {
    return { from: (lane.shape.heads[0] ?? 0) * lane.shape.group, count: lane.shape.heads.length * lane.shape.group }
  }

  /** Appends this step's rows (rotated keys). */
  append(keys: tf.Tensor, values: tf.Tensor, step: Step): void {
    for (const lane of this.lanes) {
      if (this.lanes.length === 1) lane.append(keys, values, step.count, step.start)
      else {
        const [k, v] = [laneSlice(keys, kvHeads(lane)), laneSlice(values, kvHeads(lane))]
        lane.append(k, v, step.count, step.start)
        tf.dispose([k, v])
      }
    }
  }

  /** What follows an append: remember queries, evict, seal. `queries` before RoPE. */
  async settle(queries: tf.Tensor, step: Step): Promise<void> {
    const { score, pick } = this.plan
    const acting = score?.when ?? pick?.when
    // After the prompt nobody looks at the queries for a stage that acts at its end.
    const watches = acting === 'promptEnd' ? step.phase !== 'decode' : acting !== undefined && acting !== 'room'
    if (acting && watches) {
      const rotated = step.rotation.rotate(queries) as tf.Tensor3D
      this.ring?.push(rotated)
      if (acts(acting, step)) await this.evict({ stepQueries: rotated, ring: this.ring })
      rotated.dispose()
      if (acting === 'promptEnd' && step.phase === 'promptEnd') this.ring?.replace(null)
    }
    // The prompt stays exact until the stage that acts at its end has acted.
    if (!(acting === 'promptEnd' && step.phase === 'prompt')) for (const lane of this.lanes) lane.seal()
  }

  private async evict(seen: Seen): Promise<void> {
    const { score, pick } = this.plan
    if (!score) {
      if (!pick) return
      for (const lane of this.lanes) await this.pickRows(lane, null, pick.does.count(lane.liveRows, 0), seen)
      return
    }
    const dropsNothing = this.lanes.every((lane) => score.does.count(lane.liveRows) >= lane.liveRows)
    if (dropsNothing && !this.plan.budget && !score.does.columns) return
    const scores = this.lanes.map((lane) => this.scoresOf(lane, score.does, seen))
    const counts = await this.counts(scores, score.does)
    for (const [i, lane] of this.lanes.entries())
      await this.pickRows(lane, scores[i] ?? null, counts[i] ?? lane.liveRows, seen)
    tf.dispose(scores)
  }

  /** Scores of a lane, dropped rows at -infinity. */
  private scoresOf(lane: Lane, scorer: Scorer, seen: Seen): tf.Tensor2D {
    const observed = observe(scorer.needs, { ...seen, lane, queryHeads: this.queryHeads(lane) })
    const columns = Object.fromEntries((scorer.columns ?? []).map((name) => [name, lane.ensureColumn(name)]))
    const result = tf.tidy(() => {
      const out = scorer.score(observed, columns)
      const scores = 'scores' in out ? out.scores : out
      const next = 'scores' in out ? out.columns : {}
      return {
        scores: live(lane, scores as tf.Tensor2D),
        next: Object.fromEntries(Object.entries(next).map(([k, t]) => [k, tf.clone(t)])),
      }
    })
    for (const [name, column] of Object.entries(result.next)) lane.setColumn(name, column as tf.Tensor2D)
    tf.dispose(Object.values(observed))
    return result.scores
  }

  private async counts(scores: readonly tf.Tensor2D[], scorer: Scorer): Promise<readonly number[]> {
    const { budget } = this.plan
    const uniform = this.lanes.map((lane) => scorer.count(lane.liveRows))
    if (!budget) return uniform
    const perHead = scores.flatMap((s) => tf.tidy(() => tf.split(s, s.shape[0], 0)))
    const counts = await budget.counts(perHead, uniform[0] ?? 0)
    tf.dispose(perHead)
    return counts
  }

  private async pickRows(lane: Lane, scores: tf.Tensor2D | null, count: number, seen: Seen): Promise<void> {
    const { pick } = this.plan
    if (count >= lane.liveRows) return
    if (!pick) {
      if (scores) await lane.keepRows(selectTop(scores, count) as tf.Tensor2D, count)
      return
    }
    const observed = observe(pick.does.needs, { ...seen, lane, queryHeads: this.queryHeads(lane) })
    const kept = pick.does.keep(scores ? lane.rows : lane.liveRows, count, scores, observed)
    tf.dispose(Object.values(observed))
    if (isRanges(kept)) {
      lane.keepRanges(scores ? kept : liveToStored(lane, kept), pick.does.positions === 'slot')
      return
    }
    const index = tf.tidy(() => selectTop(tf.cast(kept, 'float32') as tf.Tensor2D, count)) as tf.Tensor2D
    kept.dispose()
    await lane.keepRows(index, count)
  }

  copy(account: Account): LayerCache {
    const twin = new LayerCache(this.plan, account)
    twin.lanes = this.lanes.map((lane) => lane.copy(account))
    const ring = this.ring?.state
    if (ring) twin.ring?.push(ring)
    return twin
  }

  dispose(): void {
    for (const lane of this.lanes) lane.dispose()
    this.ring?.replace(null)
  }
}

/** What a step leaves behind for the stages that act after it. */
type Seen = Omit<Sight, 'lane' | 'queryHeads'>

/** `step` stages act after every append, `promptEnd` ones at the end of the prompt, the others when a multiple is crossed (and at the end of the prompt). */
function acts(when: When, step: Step): boolean {
  if (when === 'step') return true
  if (when === 'promptEnd') return step.phase === 'promptEnd'
  if (typeof when === 'object') {
    const n = when.everyTokens
    return step.phase === 'promptEnd' || Math.floor((step.start + step.count) / n) > Math.floor(step.start / n)
  }
  return false
}

const isRanges = (kept: readonly RowRange[] | tf.Tensor): kept is readonly RowRange[] => Array.isArray(kept)

const kvHeads = (lane: Lane) => ({ from: lane.shape.heads[0] ?? 0, count: lane.shape.heads.length })

const laneSlice = (t: tf.Tensor, heads: { from: number; count: number }): tf.Tensor =>
  tf.slice(t as tf.Tensor3D, [heads.from, 0, 0], [heads.count, -1, -1])

/** Ranges over live rows as ranges over stored rows (they differ while a block still holds dropped rows). */
function liveToStored(lane: Lane, ranges: readonly RowRange[]): RowRange[] {
  const row = lane.live?.[0]
  if (!row) return [...ranges]
  const stored: number[] = []
  for (const [i, x] of row.entries()) if (x === 1) stored.push(i)
  return ranges
    .filter((r) => r.end > r.start)
    .map((r) => ({ start: stored[r.start] ?? row.length, end: (stored[r.end - 1] ?? row.length - 1) + 1 }))
}

function live(lane: Lane, scores: tf.Tensor2D): tf.Tensor2D {
  if (!lane.live) return tf.clone(scores)
  const mask = tf.tensor2d(Int32Array.from(lane.live.flatMap((r) => [...r])), [lane.live.length, lane.rows], 'int32')
  const each = scores.shape[0] === lane.live.length ? scores : tf.tile(scores, [lane.live.length, 1])
  return tf.where(tf.cast(mask, 'bool'), each, tf.fill(each.shape, Number.NEGATIVE_INFINITY)) as tf.Tensor2D
}
