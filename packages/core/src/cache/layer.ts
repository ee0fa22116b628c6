/** One layer's cache: its lanes, and what its stages remember beside the rows. */
import * as tf from '@tensorflow/tfjs-core'
import type { Json, Phase, PickContext } from '../contract'
import { SerializedCacheError } from '../errors'
import { headsOf } from '../tensors'
import { type Account, Held } from './account'
import type { LayerRecord, Recorder } from './file/format'
import type { Reader } from './file/reader'
import { Lane, type LaneContext, type NewRows } from './lane'
import { Ring } from './observe'
import type { LayerPlan } from './plan'
import { RecallIndex } from './recall-index'
import type { StepState } from './step-state'

/** Where a step is in the sequence, and what it makes once for all layers. */
export interface Step {
  readonly phase: Phase
  /** The original position of the first new token. */
  readonly start: number
  readonly count: number
  readonly state: StepState
  /** The token at every original position so far, with those of this step. It is made when a stage looks at it. */
  tokenIds(): Int32Array
}

/** Tokens of the sequence when a step is done. */
export const seenAfter = ({ start, count }: Pick<Step, 'start' | 'count'>): number => start + count

export class LayerCache {
  lanes: readonly Lane[]
  readonly ring: Ring | null
  /** Hidden states of the newest tokens. */
  readonly hidden: Ring | null
  recall: readonly RecallIndex[]
  /** Queries of a step (after RoPE) while its evictions wait for a decision over all layers. */
  readonly undecided: Held<tf.Tensor3D>
  /** What a replay has measured so far, per lane `[lane queryHeads, rows]`. */
  readonly replayed: readonly Held<tf.Tensor2D>[]
  /** What a ragged pick remembers about each lane. */
  memory: Json[]
  /** Whether anything but appending has happened to rows since the cache last asked. */
  changed = false

  constructor(
    readonly plan: LayerPlan,
    account: Account,
  ) {
    const { recall } = plan
    this.lanes = plan.lanes.map((shape) => new Lane(shape, account))
    this.ring = plan.ring > 0 ? new Ring(plan.ring, account) : null
    this.hidden = plan.hidden > 0 ? new Ring(plan.hidden, account) : null
    this.recall = recall ? this.lanes.map(() => new RecallIndex(recall, account)) : []
    this.undecided = new Held(account)
    this.replayed = this.lanes.map(() => new Held(account))
    this.memory = this.lanes.map(() => null)
  }

  /**
   * Attends with queries (before RoPE) to what is stored and to the step's own rows: `own` where they are not stored yet, else the last `stored`
   * rows. Without `recalls` all rows are read, also where a recall would select some. @returns `[queryHeads, n, valueDim]`
   */
  async attend(
    queries: tf.Tensor,
    own: NewRows | null,
    stored: number,
    context: LaneContext,
    recalls = true,
  ): Promise<tf.Tensor> {
    const [only] = this.lanes
    const indexOf = (lane: number) => (recalls ? this.recall[lane] : undefined)
    if (this.lanes.length === 1 && only) return attendLane(only, indexOf(0), queries, own, stored, context)
    const outputs: tf.Tensor[] = []
    for (const [i, lane] of this.lanes.entries()) {
      const q = headsOf(queries, queryHeadsOf(lane))
      const mine = own && rowsOf(own, lane)
      outputs.push(await attendLane(lane, indexOf(i), q, mine, stored, context))
      tf.dispose(mine ? [q, mine.keys, mine.rotated, mine.values] : [q])
    }
    const all = tf.concat(outputs, 0)
    tf.dispose(outputs)
    return all
  }

  /** Appends this step's rows (keys before RoPE). */
  append(own: NewRows, step: Step): void {
    const [only] = this.lanes
    if (this.lanes.length === 1 && only) {
      only.append(own, step.start)
      return
    }
    for (const lane of this.lanes) {
      const mine = rowsOf(own, lane)
      lane.append(mine, step.start)
      tf.dispose([mine.keys, mine.rotated, mine.values])
    }
  }

  /** Whether rows stay exact for now, because something acts at the end of the prompt. */
  frozen({ phase }: Pick<Step, 'phase'>): boolean {
    return this.plan.waitsForPrompt && phase === 'prompt'
  }

  /** Builds the recall index over what is stored now. */
  async index(step: Step, context: LaneContext): Promise<void> {
    for (const [i, lane] of this.lanes.entries()) {
      const extended = await this.recall[i]?.extend(lane, step.phase, context)
      if (extended) this.changed = true
    }
  }

  /** What a pick is told of lane number `lane`. */
  pickContext(lane: number, step: Pick<Step, 'phase' | 'start' | 'count'>): PickContext {
    const { memory } = this
    return {
      phase: step.phase,
      tokensSeen: seenAfter(step),
      head: this.lanes[lane]?.shape.heads[0] ?? 0,
      get memory() {
        return memory[lane] ?? null
      },
      set memory(next: Json) {
        memory[lane] = next
      },
    }
  }

  copy(account: Account): LayerCache {
    const twin = new LayerCache(this.plan, account)
    twin.lanes = this.lanes.map((lane) => lane.copy(account))
    const ring = this.ring?.state
    if (ring) twin.ring?.push(ring)
    const hidden = this.hidden?.state
    if (hidden) twin.hidden?.push(hidden)
    twin.recall = this.recall.map((index) => index.copy(account))
    twin.memory = structuredClone(this.memory)
    return twin
  }

  record(to: Recorder): LayerRecord {
    return {
      lanes: this.lanes.map((lane) => lane.record(to)),
      ring: this.ring?.state ? to.tensor(this.ring.state) : null,
      ...(this.hidden?.state ? { hidden: to.tensor(this.hidden.state) } : {}),
      recall: this.recall.map((index) => index.record(to)),
      memory: this.memory,
    }
  }
  /** @throws SerializedCacheError */
  restore(record: LayerRecord, from: Reader): void {
    const { layer } = this.plan
    if (record.lanes.length !== this.lanes.length || record.recall.length !== this.recall.length)
      throw new SerializedCacheError(`layer ${layer} is not divided as this compressor divides it.`)
    for (const [i, lane] of record.lanes.entries()) this.lanes[i]?.restore(lane, from)
    if (record.ring) this.ring?.replace(from.tensor(record.ring) as tf.Tensor3D)
    if (record.hidden) this.hidden?.replace(from.tensor(record.hidden) as tf.Tensor3D)
    for (const [i, blocks] of record.recall.entries()) this.recall[i]?.restore(blocks, from)
    this.memory = [...record.memory]
  }

  dispose(): void {
    for (const index of this.recall) index.dispose()
    for (const lane of this.lanes) lane.dispose()
    for (const measured of [...this.replayed, this.undecided]) measured.replace(null)
    this.ring?.replace(null)
    this.hidden?.replace(null)
  }
}

/** The first query head of a lane, and how many query heads it has. */
export const queryHeadsOf = ({ shape }: Lane) => ({
  from: (shape.heads[0] ?? 0) * shape.group,
  count: shape.heads.length * shape.group,
})

/** Takes the rows of a lane's heads out of those of the layer. They are the caller's. */
const rowsOf = (own: NewRows, { shape }: Lane): NewRows => {
  const heads = { from: shape.heads[0] ?? 0, count: shape.heads.length }
  return {
    keys: headsOf(own.keys, heads),
    rotated: headsOf(own.rotated, heads),
    values: headsOf(own.values, heads),
    n: own.n,
  }
}

/** Attends to the rows that a recall selects, or to all of a lane where none selects. */
function attendLane(
  lane: Lane,
  index: RecallIndex | undefined,
  queries: tf.Tensor,
  own: NewRows | null,
  stored: number,
  context: LaneContext,
): Promise<tf.Tensor> | tf.Tensor {
  if (index?.selects(queries.shape[1] ?? 0, lane, stored)) return index.attend(lane, queries, own, stored, context)
  return lane.attend(queries, own, stored, context)
}
