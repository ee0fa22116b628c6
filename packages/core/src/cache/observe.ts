/** Answers what stages ask to see, for one lane. Attention is computed again from stored keys, and only when a stage looks at it. */
import { gatherRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Needs, Observation, Observed } from '../contract'
import { UnsupportedStage } from '../errors'
import { type Account, Held } from './account'
import type { Lane, LaneContext } from './lane'
import { readAll } from './rows/read'

/** The things that a stage may ask to see. */
export const OBSERVED: readonly Observation['of'][] = [
  'attention',
  'queries',
  'hidden',
  'replay',
  'keys',
  'values',
  'tokenIds',
  'positions',
]

/** How many of the last queries (after RoPE) a layer must remember for these needs. */
export const queriesNeeded = (needs: Needs): number =>
  Math.max(
    0,
    ...Object.values(needs).map((o) =>
      o.of === 'attention' ? (o.queries === 'all' ? 0 : o.queries) : o.of === 'queries' ? o.last : 0,
    ),
  )

/** How many of the last hidden states a layer must remember for these needs. */
export const hiddenNeeded = (needs: Needs): number =>
  Math.max(0, ...Object.values(needs).map((o) => (o.of === 'hidden' ? o.last : 0)))

/**
 * Remembers the newest rows that the stages of a layer look back at: queries after RoPE `[queryHeads, at most size, keyDim]`, or hidden
 * states `[1, at most size, hidden]`. They are counted in the ledger.
 */
export class Ring {
  private readonly ring: Held<tf.Tensor3D>
  constructor(
    readonly size: number,
    account: Account,
  ) {
    this.ring = new Held(account)
  }
  get bytes(): number {
    return this.ring.bytes
  }
  /** Whether it remembers all rows of a prompt, and none of decoded tokens. */
  get ofPrompt(): boolean {
    return this.size === Number.POSITIVE_INFINITY
  }
  push(rows: tf.Tensor3D): void {
    const held = this.ring.tensor
    const next = tf.tidy(() => {
      const n = rows.shape[1]
      const fresh = n > this.size ? tf.slice(rows, [0, n - this.size, 0], [-1, this.size, -1]) : rows
      const kept = held ? Math.min(held.shape[1], this.size - fresh.shape[1]) : 0
      const tail = held && kept > 0 ? [tf.slice(held, [0, held.shape[1] - kept, 0], [-1, kept, -1])] : []
      // concat copies, also when there is only one piece, so the ring owns what it holds.
      return tf.concat([...tail, fresh, tf.zeros([fresh.shape[0], 0, fresh.shape[2]])], 1) as tf.Tensor3D
    })
    this.ring.replace(next)
  }
  /** Lends the last n queries. Call it inside a tidy. */
  last(n: number): tf.Tensor3D {
    const ring = this.ring.tensor
    if (!ring) throw new UnsupportedStage('observation', 'nothing was seen yet.')
    const have = ring.shape[1]
    return have <= n ? ring : tf.slice(ring, [0, have - n, 0], [-1, n, -1])
  }
  get state(): tf.Tensor3D | null {
    return this.ring.tensor
  }
  replace(next: tf.Tensor3D | null): void {
    this.ring.replace(next)
  }
}

/** What a stage's needs are answered from when it acts. */
export interface Sight {
  readonly lane: Lane
  /** The first query head of the lane, and how many query heads it has. */
  readonly queryHeads: { readonly from: number; readonly count: number }
  /** The queries of this step after RoPE, `[queryHeads, n, keyDim]`. */
  readonly stepQueries: tf.Tensor3D
  readonly ring: Ring | null
  /** What a replay measured in this lane `[lane queryHeads, rows]`; null where none did. */
  readonly replayed: tf.Tensor2D | null
  /** Hidden states of the newest tokens; null where no stage looks at them. */
  readonly hidden: Ring | null
  readonly context: LaneContext
  /** The token at every original position. It is made when a stage looks at it. */
  tokenIds(): Int32Array
}

/** What a stage asked to see. A tensor is made when the stage looks at it, and freed by `dispose`. */
export interface Observations<N extends Needs> {
  readonly seen: Observed<N>
  dispose(): void
}

/** Gives tensors the names that they have in `needs`. One that the stage does not look at is not made. */
export function observe<N extends Needs>(needs: N, sight: Sight): Observations<N> {
  const made = new Set<tf.Tensor>()
  const seen = {}
  for (const [name, what] of Object.entries(needs)) {
    let tensor: tf.Tensor | null = null
    const look = (): tf.Tensor => {
      tensor ??= tf.keep(one(what, sight))
      made.add(tensor)
      return tensor
    }
    Object.defineProperty(seen, name, { enumerable: true, get: look })
  }
  return { seen: seen as Observed<N>, dispose: () => tf.dispose([...made]) }
}

function one(
  what: Observation,
  { lane, queryHeads, stepQueries, ring, hidden, replayed, context, tokenIds }: Sight,
): tf.Tensor {
  const ofLane = (q: tf.Tensor3D) => tf.slice(q, [queryHeads.from, 0, 0], [queryHeads.count, -1, -1])
  const newest = (n: number) => (stepQueries.shape[1] >= n || !ring?.state ? lastRows(stepQueries, n) : ring.last(n))
  switch (what.of) {
    case 'attention': {
      const queries = tf.tidy(() => ofLane(what.queries === 'all' ? stepQueries : newest(what.queries)))
      const mass = lane.attentionOf(queries, what.reduce, context)
      queries.dispose()
      return mass
    }
    case 'queries':
      return tf.tidy(() => ofLane(newest(what.last)))
    case 'replay':
      return replayed ? tf.clone(replayed) : tf.zeros([queryHeads.count, lane.rows])
    case 'hidden': {
      if (!hidden) throw new UnsupportedStage('observation', 'no hidden states were remembered.')
      return tf.tidy(() => tf.squeeze(hidden.last(what.last), [0]))
    }
    case 'keys':
      return lane.rotatedKeys(context)
    case 'values':
      return readAll(lane.values, context.prediction('values'))
    case 'positions':
      return lane.positions.tensor()
    case 'tokenIds': {
      const positions = lane.positions.tensor()
      const tokens = tokenIds()
      const ids = tf.tidy(() => {
        const [heads, rows] = positions.shape
        const known = tf.reshape(tf.tensor1d(tokens, 'int32'), [1, tokens.length, 1])
        const each = tf.tile(known, [heads, 1, 1])
        return tf.reshape(gatherRows([each], [tokens.length], positions, rows), [heads, rows])
      })
      positions.dispose()
      return ids
    }
  }
}

const lastRows = (q: tf.Tensor3D, n: number): tf.Tensor3D => {
  const have = q.shape[1]
  return have <= n ? q : tf.slice(q, [0, have - n, 0], [-1, n, -1])
}
