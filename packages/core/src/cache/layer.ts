/** One layer's cache: its lanes, and the stages that act on it after an append: score, budget, pick, seal. */

import { selectTop } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { foldSpace, NO_SEALING, stagesOn } from '../compose'
import type {
  Artifact,
  Bound,
  BudgetStage,
  Kind,
  KVCompressor,
  ModelShape,
  Part,
  Phase,
  Pick,
  Quantizer,
  Ready,
  RowRange,
  Scorer,
  Site,
  Stage,
  When,
} from '../contract'
import { IncompatibleStages, ModelMismatch, UnsupportedStage, WindowError } from '../errors'
import type { StepRotation } from '../rope'
import { Lane, type LaneShape } from './lane'
import { observe, QueryRing, queriesNeeded, type Sight } from './observe'
import type { Account } from './page'

interface Acting<T> {
  readonly id: string
  readonly when: When
  readonly does: T
}

/** The stages of one layer, bound to it. */
export interface LayerPlan {
  readonly layer: number
  readonly score: Acting<Scorer> | null
  readonly budget: BudgetStage | null
  readonly pick: Acting<Pick> | null
  readonly lanes: readonly LaneShape[]
  /** Largest magnitude that store and metadata of each part can hold. */
  readonly largest: Readonly<Record<Part, number>>
  /** Queries to remember from chunk to chunk. */
  readonly ring: number
}

/** Kinds this cache runs; the others are refused when it is opened. */
const RUNS: readonly Kind[] = ['score', 'budget', 'pick', 'quantize']

/** Binds a compressor's stages to a layer. @throws ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError */
export function planLayer(model: ModelShape, { compressor, artifacts }: Ready, layer: number): LayerPlan {
  for (const stage of compressor.stages)
    if (!RUNS.includes(stage.kind))
      throw new UnsupportedStage(
        stage.id,
        `stages of kind "${stage.kind}" are described by the contract, but this cache runs only ${RUNS.join(', ')}.`,
      )
  const site = (part: Part): Site => ({
    layer,
    part,
    model,
    heads: model.kvHeads,
    dim: part === 'keys' ? model.keyDim : model.valueDim,
  })
  const one = <K extends Kind>(kind: K, part: Part): { stage: Stage<K>; bound: Bound[K] } | null => {
    const [stage] = stagesOn(compressor, kind, layer, part)
    return stage ? { stage, bound: stage.bind(site(part), artifactOf(artifacts, stage.id)) } : null
  }
  const scorer = one('score', 'keys')
  const budget = one('budget', 'keys')
  const pick = one('pick', 'keys')
  const keyQuantizer = one('quantize', 'keys')
  const valueQuantizer = one('quantize', 'values')
  if (pick && scorer && pick.bound.by === 'positions')
    throw new IncompatibleStages(
      scorer.stage.id,
      pick.stage.id,
      `${pick.stage.id} picks by position and would ignore the scores of ${scorer.stage.id}.`,
      'Keep one of them, or give them different layers with onLayers().',
    )
  if (pick && !scorer && pick.bound.by === 'scores')
    throw new IncompatibleStages(
      'none',
      pick.stage.id,
      `${pick.stage.id} picks by score, and nothing scores.`,
      'Add a scorer, for example snapkv().',
    )
  for (const q of [keyQuantizer, valueQuantizer])
    if (q) checkWindow(compressor, q.stage.id, q.bound.rowsPerGroup, q === keyQuantizer ? 'keys' : 'values')
  for (const part of ['keys', 'values'] as const) {
    const space = foldSpace(
      compressor.stages.filter((s) => s.on?.layers?.includes(layer) ?? true),
      part,
    )
    if (part === 'keys' && keyQuantizer && space.rope === 'pre' && model.rope)
      throw new UnsupportedStage(keyQuantizer.stage.id, 'it stores keys before RoPE, and this cache stores them after.')
  }
  const group = model.queryHeads / model.kvHeads
  if (!Number.isInteger(group))
    throw new ModelMismatch(
      'the cache',
      `${model.queryHeads} query heads over ${model.kvHeads} KV heads.`,
      'Query heads must be a multiple of KV heads.',
    )
  const windows = compressor.window ?? NO_SEALING
  const lane = (heads: readonly number[]): LaneShape => ({
    heads,
    group,
    keyDim: model.keyDim,
    valueDim: model.valueDim,
    attentionScale: model.attentionScale,
    store: compressor.store ?? 'f16',
    windows,
    keyQuantizer: keyQuantizer?.bound ?? null,
    valueQuantizer: valueQuantizer?.bound ?? null,
  })
  const all = Array.from({ length: model.kvHeads }, (_, h) => h)
  return {
    layer,
    score: scorer ? { id: scorer.stage.id, when: scorer.stage.when, does: scorer.bound } : null,
    budget: budget?.bound ?? null,
    pick: pick ? { id: pick.stage.id, when: pick.stage.when, does: pick.bound } : null,
    lanes: budget?.bound.ragged ? all.map((h) => lane([h])) : [lane(all)],
    largest: { keys: largest(compressor, keyQuantizer?.bound), values: largest(compressor, valueQuantizer?.bound) },
    ring: Math.max(queriesNeeded(scorer?.bound.needs ?? {}), queriesNeeded(pick?.bound.needs ?? {})),
  }
}

const LARGEST_F16 = 65504
const LARGEST_F32 = 3.4028234663852886e38

const largest = (c: KVCompressor, quantizer: Quantizer | undefined): number =>
  Math.min(c.store === 'f32' ? LARGEST_F32 : LARGEST_F16, quantizer?.largest ?? LARGEST_F32)

const artifactOf = (artifacts: readonly Artifact[], id: string): Artifact | undefined =>
  artifacts.find((a) => a.stage === id)

function checkWindow(c: KVCompressor, id: string, rowsPerGroup: number, part: Part): void {
  const w = (c.window ?? NO_SEALING)[part]
  if (w.recent === Number.POSITIVE_INFINITY) return
  if (w.block < rowsPerGroup)
    throw new WindowError(
      `The ${part} window seals blocks of ${w.block} rows, smaller than the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use window({ ${part}: { block: ${rowsPerGroup} } }, ...) or a multiple.`,
    )
  if (w.drain === 'blocks' && w.block % rowsPerGroup !== 0)
    throw new WindowError(
      `The ${part} window seals blocks of ${w.block} rows, no multiple of the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use a block of ${Math.ceil(w.block / rowsPerGroup) * rowsPerGroup} rows.`,
    )
}

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
    if (acting !== undefined && acting !== 'room') {
      const rotated = step.rotation.rotate(queries) as tf.Tensor3D
      this.ring?.push(rotated)
      if (acts(acting, step)) await this.evict({ stepQueries: rotated, ring: this.ring })
      rotated.dispose()
      if (acting === 'promptEnd' && step.phase !== 'prompt') this.ring?.replace(null)
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
