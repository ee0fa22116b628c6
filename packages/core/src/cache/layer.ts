/** One layer's cache: its lanes, and the stages that act on it after an append: score, budget, pick, seal. */
import { selectTop } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Json, Phase, PickContext, Protected, RowRange, Scorer, When } from '../contract'
import { UnsupportedStage } from '../errors'
import { bothProtect, floorOf, liftProtected } from '../protect'
import type { StepRotation } from '../rope'
import { Lane, type LaneContext, type NewRows } from './lane'
import { observe, QueryRing, type Sight } from './observe'
import type { Account } from './page'
import type { LayerPlan } from './plan'
import { copyOf } from './positions'
import { RecallIndex } from './recall-index'

/** This step's tensors and place in the sequence. */
export interface Step {
  readonly phase: Phase
  /** Original position of the first new token. */
  readonly start: number
  readonly count: number
  readonly rotation: StepRotation
  /** The token at every original position so far, this step's included. Made when a stage looks at it. */
  tokenIds(): Int32Array
}

export class LayerCache {
  lanes: Lane[]
  readonly ring: QueryRing | null
  recall: RecallIndex[]
  /** What a ragged pick remembers, per lane. */
  memory: Json[]
  /** Whether, since the cache last asked, something else happened than rows being appended. */
  changed = false

  constructor(
    readonly plan: LayerPlan,
    account: Account,
  ) {
    this.lanes = plan.lanes.map((shape) => new Lane(shape, account))
    this.ring = plan.ring > 0 ? new QueryRing(plan.ring, account) : null
    const { recall } = plan
    this.recall = recall ? this.lanes.map(() => new RecallIndex(recall, account)) : []
    this.memory = this.lanes.map(() => null)
  }

  /** Makes room before an append (stages with `when: 'room'`). `seen`: tokens so far. */
  room(incoming: number, seen: number): void {
    const { pick, resample } = this.plan
    if (resample)
      for (const lane of this.lanes)
        if (lane.rows + incoming > resample.capacity && lane.rows === resample.capacity) {
          lane.resample(resample, seen)
          this.changed = true
        }
    if (pick?.when !== 'room') return
    for (const [i, lane] of this.lanes.entries()) {
      const tokens = lane.liveRows
      const count = pick.does.count(tokens, incoming)
      if (count >= tokens) continue
      const kept = pick.does.keep(
        tokens,
        count,
        null,
        {},
        this.contextOf(i, { phase: 'decode', start: seen, count: 0 }),
      )
      if (!isRanges(kept))
        throw new UnsupportedStage(pick.id, 'a pick that makes room before an append must return row ranges.')
      lane.keepRanges(liveToStored(lane, kept), pick.does.positions === 'slot')
      this.changed = true
    }
  }

  /** One more than the position that the last of `incoming` tokens would be read at, room made as the stages make it. */
  positionsWith(incoming: number, seen: number): number {
    const { pick, resample } = this.plan
    if (resample) return Math.min(seen + incoming, resample.capacity)
    return Math.max(
      0,
      ...this.lanes.map((lane) => {
        const renumbers = pick?.when === 'room' && pick.does.positions === 'slot'
        const dropped = renumbers ? Math.max(0, lane.liveRows - pick.does.count(lane.liveRows, incoming)) : 0
        return seen - lane.shift - dropped + incoming
      }),
    )
  }

  /** Whether positions never run out, because rows are numbered anew when some are dropped. */
  get endless(): boolean {
    const { pick, resample } = this.plan
    return resample !== null || (pick?.does.positions === 'slot' && pick.when !== 'promptEnd')
  }

  /** The most tokens that one append may bring now. */
  get chunkLimit(): number {
    const { pick, resample } = this.plan
    const picks = pick?.does.chunkLimit ?? Number.POSITIVE_INFINITY
    const rows = this.lanes[0]?.rows ?? 0
    if (!resample) return picks
    const free = rows < resample.capacity ? resample.capacity - rows : resample.capacity - resample.sinks - resample.to
    return Math.min(picks, free)
  }

  /** Attention of queries (before RoPE) over what is stored and this step's own rows; `[queryHeads, n, valueDim]`. */
  async attend(queries: tf.Tensor, own: NewRows | null, stored: number, context: LaneContext): Promise<tf.Tensor> {
    const one = (lane: Lane, i: number, q: tf.Tensor, mine: NewRows | null): Promise<tf.Tensor> | tf.Tensor => {
      const index = this.recall[i]
      if (index?.selects(q.shape[1] ?? 0, lane) && stored === 0) return index.attend(lane, q, mine, context)
      return lane.attend(q, mine, stored, context)
    }
    const [only] = this.lanes
    if (this.lanes.length === 1 && only) return one(only, 0, queries, own)
    const outputs: tf.Tensor[] = []
    for (const [i, lane] of this.lanes.entries()) {
      const q = laneSlice(queries, this.queryHeads(lane))
      const mine = own && rowsOf(own, lane)
      outputs.push(await one(lane, i, q, mine))
      tf.dispose(mine ? [q, mine.keys, mine.rotated, mine.values] : [q])
    }
    const all = tf.concat(outputs, 0)
    tf.dispose(outputs)
    return all
  }

  private queryHeads(lane: Lane) {
    return { from: (lane.shape.heads[0] ?? 0) * lane.shape.group, count: lane.shape.heads.length * lane.shape.group }
  }

  /** Appends this step's rows (keys before RoPE). */
  append(own: NewRows, step: Step): void {
    for (const lane of this.lanes) {
      if (this.lanes.length === 1) lane.append(own, step.start)
      else {
        const mine = rowsOf(own, lane)
        lane.append(mine, step.start)
        tf.dispose([mine.keys, mine.rotated, mine.values])
      }
    }
  }

  /** What the prompt leaves exact until its end, because something acts there. */
  frozen(step: Pick<Step, 'phase'>): boolean {
    return this.plan.waitsForPrompt && step.phase === 'prompt'
  }

  /** What follows an append, up to sealing: remember queries, evict, fit what this prompt fits. `queries` before RoPE. */
  async settle(queries: tf.Tensor, step: Step, context: LaneContext): Promise<void> {
    const { score, pick } = this.plan
    const acting = score?.when ?? pick?.when
    // After the prompt nobody looks at the queries for a stage that acts at its end.
    const evicts = acting !== undefined && acting !== 'room' && (acting !== 'promptEnd' || step.phase !== 'decode')
    if (!evicts && !(this.plan.fitsPrompt && step.phase !== 'decode')) return
    const rotated = step.rotation.rotate(queries) as tf.Tensor3D
    const watches = this.ring !== null && !(this.ring.ofPrompt && step.phase === 'decode')
    if (watches) this.ring?.push(rotated)
    if (watches || (evicts && acts(acting, step)) || this.plan.fitsPrompt) this.changed = true
    const seen = { stepQueries: rotated, ring: this.ring, context, tokenIds: step.tokenIds }
    if (evicts && acts(acting, step)) await this.evict(seen, step)
    if (this.plan.fitsPrompt && step.phase === 'promptEnd') this.fitPrompt(seen)
    rotated.dispose()
    const done = this.ring?.ofPrompt || !(evicts && acting !== 'promptEnd')
    if (step.phase === 'promptEnd' && done) this.ring?.replace(null)
  }

  /** Transforms that are fitted on this prompt see the rows it leaves. */
  private fitPrompt(seen: Seen): void {
    for (const lane of this.lanes)
      for (const part of [lane.keys, lane.values]) {
        const transform = part.codec?.parts.transform
        if (transform?.fitted !== 'prompt' || !transform.fitOnline || lane.rows === 0) continue
        const fitOnline = transform.fitOnline.bind(transform)
        const observed = observe(transform.needs, { ...seen, lane, queryHeads: this.queryHeads(lane) })
        const state = tf.tidy(() => {
          const fitted = fitOnline(part.read(), observed.seen)
          return Object.fromEntries(Object.entries(fitted).map(([name, t]) => [name, copyOf(t)]))
        })
        observed.dispose()
        part.fit(state)
      }
  }

  /** Builds the recall index over what is stored now. */
  async index(step: Step, context: LaneContext): Promise<void> {
    for (const [i, lane] of this.lanes.entries()) {
      const extended = await this.recall[i]?.extend(lane, step.phase, context)
      if (extended) this.changed = true
    }
  }

  private async evict(seen: Seen, step: Step): Promise<void> {
    const { score, pick } = this.plan
    if (!score) {
      if (!pick) return
      for (const [i, lane] of this.lanes.entries())
        await this.pickRows(lane, i, null, this.atLeast(lane, pick.does.count(lane.liveRows, 0), pick.id), seen, step)
      return
    }
    const uniform = this.lanes.map((lane) => this.atLeast(lane, score.does.count(lane.liveRows), score.id))
    const dropsNothing = this.lanes.every((lane, i) => uniform[i] === lane.liveRows)
    if (dropsNothing && !this.plan.budget && !score.does.columns && !pick?.does.ragged) return
    const scores = this.lanes.map((lane) => this.scoresOf(lane, score.does, seen, step))
    const counts = await this.counts(scores, uniform)
    for (const [i, lane] of this.lanes.entries())
      await this.pickRows(lane, i, scores[i] ?? null, counts[i] ?? lane.liveRows, seen, step)
    tf.dispose(scores)
  }

  /** Rows that stay whatever scores and counts say. */
  private get promised(): Protected {
    return bothProtect(this.plan.score?.does.protect, this.plan.pick?.does.protect)
  }

  /** A count that stage `by` asked for, raised to what is promised and lowered to what a lane holds. */
  private atLeast(lane: Lane, count: number, by: string): number {
    const { liveRows } = lane
    if (!Number.isInteger(count))
      throw new UnsupportedStage(by, `it would keep ${count} of ${liveRows} rows. Let it count whole rows.`)
    return Math.min(liveRows, Math.max(count, floorOf(liveRows, this.promised)))
  }

  /** Scores of a lane, protected rows at infinity, dropped rows at -infinity. */
  private scoresOf(lane: Lane, scorer: Scorer, seen: Seen, { phase, start, count }: Step): tf.Tensor2D {
    const observed = observe(scorer.needs, { ...seen, lane, queryHeads: this.queryHeads(lane) })
    const columns = Object.fromEntries((scorer.columns ?? []).map((name) => [name, lane.ensureColumn(name)]))
    const result = tf.tidy(() => {
      const out = scorer.score(observed.seen, columns, { phase, tokensSeen: start + count })
      const scores = out && 'scores' in out ? out.scores : out
      const next = out && 'scores' in out ? out.columns : {}
      const heads = lane.shape.heads.length
      checkShape(this.plan.score?.id ?? 'a scorer', 'scores', scores, [
        [heads, lane.rows],
        [1, lane.rows],
      ])
      for (const [name, column] of Object.entries(next))
        checkShape(this.plan.score?.id ?? 'a scorer', `column ${name}`, column, [[heads, lane.rows]])
      return {
        scores: lifted(lane, scores as tf.Tensor2D, this.promised),
        next: Object.fromEntries(Object.entries(next).map(([k, t]) => [k, tf.clone(t)])),
      }
    })
    for (const [name, column] of Object.entries(result.next)) lane.setColumn(name, column as tf.Tensor2D)
    observed.dispose()
    return result.scores
  }

  /** Rows that each lane keeps: `uniform`, or what a budget stage makes of it. */
  private async counts(scores: readonly tf.Tensor2D[], uniform: readonly number[]): Promise<readonly number[]> {
    const { budget } = this.plan
    if (!budget) return uniform
    const perHead = scores.flatMap((s) => tf.tidy(() => tf.split(s, s.shape[0], 0)))
    const heads = this.lanes.flatMap((lane, i) =>
      Array.from({ length: scores[i]?.shape[0] ?? 0 }, () => ({
        rows: lane.liveRows,
        uniform: uniform[i] ?? lane.liveRows,
        floor: floorOf(lane.liveRows, this.promised),
      })),
    )
    const mean = Math.trunc(heads.reduce((sum, head) => sum + head.uniform, 0) / heads.length)
    const counts = await budget.counts(perHead, mean, heads)
    tf.dispose(perHead)
    return this.lanes.map((lane, i) => this.atLeast(lane, counts[i] ?? lane.liveRows, 'budget'))
  }

  private contextOf(lane: number, { phase, start, count }: Pick<Step, 'phase' | 'start' | 'count'>): PickContext {
    const { memory } = this
    return {
      phase,
      tokensSeen: start + count,
      head: this.lanes[lane]?.shape.heads[0] ?? 0,
      get memory() {
        return memory[lane] ?? null
      },
      set memory(next: Json) {
        memory[lane] = next
      },
    }
  }

  private async pickRows(
    lane: Lane,
    number: number,
    scores: tf.Tensor2D | null,
    count: number,
    seen: Seen,
    step: Step,
  ): Promise<void> {
    const { pick } = this.plan
    if (count >= lane.liveRows && !pick?.does.ragged) return
    this.forgetIndex(lane, number)
    if (!pick) {
      if (scores) await lane.keepRows(selectTop(scores, count) as tf.Tensor2D, count)
      return
    }
    const observed = observe(pick.does.needs, { ...seen, lane, queryHeads: this.queryHeads(lane) })
    const kept = pick.does.keep(
      scores ? lane.rows : lane.liveRows,
      count,
      scores,
      observed.seen,
      this.contextOf(number, step),
    )
    observed.dispose()
    if (isRanges(kept)) {
      lane.keepRanges(scores ? kept : liveToStored(lane, kept), pick.does.positions === 'slot')
      return
    }
    // A ragged pick counts by its mask: what is promised is marked in it, and the newest row where it would leave none.
    const marked = (protect: Protected): tf.Tensor2D =>
      tf.tidy(() => lifted(lane, tf.cast(kept, 'float32') as tf.Tensor2D, protect))
    let mask = marked(pick.does.ragged ? this.promised : {})
    let keeps = pick.does.ragged ? await countOf(mask) : count
    if (keeps === 0) {
      mask.dispose()
      mask = marked({ last: 1 })
      keeps = 1
    }
    kept.dispose()
    if (keeps < lane.liveRows) await lane.keepRows(selectTop(mask, keeps) as tf.Tensor2D, keeps)
    mask.dispose()
  }

  /** Rows are about to go: what was indexed by their numbers is indexed again after that, and rows in host memory come back. */
  private forgetIndex(lane: Lane, number: number): void {
    const index = this.recall[number]
    if (!index || index.indexed === 0) return
    index.dispose()
    for (const part of [lane.keys, lane.values]) part.toDevice()
  }

  copy(account: Account): LayerCache {
    const twin = new LayerCache(this.plan, account)
    twin.lanes = this.lanes.map((lane) => lane.copy(account))
    const ring = this.ring?.state
    if (ring) twin.ring?.push(ring)
    twin.recall = this.recall.map((index) => index.copy(account))
    twin.memory = structuredClone(this.memory)
    return twin
  }

  dispose(): void {
    for (const index of this.recall) index.dispose()
    for (const lane of this.lanes) lane.dispose()
    this.ring?.replace(null)
  }
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

/** Marked rows of a mask `[1, tokens]`. */
async function countOf(mask: tf.Tensor): Promise<number> {
  const ones = tf.tidy(() => tf.sum(tf.cast(tf.greater(mask, 0), 'int32')))
  const [n = 0] = await ones.data()
  ones.dispose()
  return n
}

const isRanges = (kept: readonly RowRange[] | tf.Tensor): kept is readonly RowRange[] => Array.isArray(kept)

const kvHeads = (lane: Lane) => ({ from: lane.shape.heads[0] ?? 0, count: lane.shape.heads.length })

/** The rows of a lane's heads; the caller's. */
const rowsOf = (own: NewRows, lane: Lane): NewRows => ({
  keys: laneSlice(own.keys, kvHeads(lane)),
  rotated: laneSlice(own.rotated, kvHeads(lane)),
  values: laneSlice(own.values, kvHeads(lane)),
  n: own.n,
})

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

/** Scores with protected rows at infinity and dropped ones at -infinity; the mask of the dropped is made once while nothing is protected. */
function lifted(lane: Lane, scores: tf.Tensor2D, protect: Protected): tf.Tensor2D {
  if ((protect.first ?? 0) + (protect.last ?? 0) > 0) return liftProtected(scores, lane.live, protect)
  const mask = lane.liveMask(0)
  if (!mask) return tf.clone(scores)
  const [heads] = mask.shape
  const each = scores.shape[0] === heads ? scores : tf.tile(scores, [heads, 1])
  return tf.where(tf.cast(mask, 'bool'), each, tf.fill(each.shape, Number.NEGATIVE_INFINITY)) as tf.Tensor2D
}
