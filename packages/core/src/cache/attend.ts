/**
 * Attends to a lane whose rows are stored in several forms. Rows of one form make a run, and each run is read in its form: as stored, as
 * latents by projecting the query or the output, or decoded a tile at a time. The runs are joined by their log-sum-exps. A lane that
 * the kernels can read as it is stored needs none of this: one call does it.
 */
import { pagedAttention, type RowSegment } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { disposeAll } from '../tensors'
import { DENSE, type OwnRows, type Readable, type Reading, type Run } from './reading'
import type { Fitted } from './rows/fitted'
import { segmentsOf } from './rows/segments'
import { keySideOf, valueSideOf } from './sides'

/** How many rows are decoded at a time. */
const TILE_ROWS = 1024

/** Attends to a lane. @returns `[lane queryHeads, n, valueDim]` */
export function attendLane(lane: Readable, reading: Reading): tf.Tensor {
  const { keys, values } = lane
  if (keys.fused && values.fused && !reading.ranges && !reading.fetched) return attendAtOnce(lane, reading)
  const shares = runsOf(lane, reading).flatMap((run) => {
    const lists = reading.lists?.map((list) => within(list, run.from, run.rows)) ?? null
    // A run of which no head reads a row is not even decoded.
    return lists?.every((list) => list.length === 0) ? [] : [attendRun(lane, reading, run, lists)]
  })
  if (reading.fetched) shares.push(attendFetched(lane, reading, reading.fetched))
  if (reading.own) shares.push(attendOwn(lane, reading, reading.own))
  return join(shares)
}

function attendAtOnce(lane: Readable, { variants, variantOf, own, stored, live, rotation, lists }: Reading): tf.Tensor {
  const { shape, keys, values } = lane
  const keySegments = segmentsOf(keys, 0, keys.count, rotation ? () => 0 : variantOf, rotation !== null)
  const valueSegments = segmentsOf(values, 0, values.count, () => 0, false)
  if (own) {
    keySegments.push({ ...DENSE, tensors: [own.keys], rows: own.n, query: rotation ? 0 : variantOf(lane.shift) })
    valueSegments.push({ ...DENSE, tensors: [own.values], rows: own.n })
  }
  return pagedAttention({
    queries: variants,
    keys: keySegments,
    values: valueSegments,
    kvHeads: shape.heads.length,
    keyDim: shape.keyDim,
    valueDim: shape.valueDim,
    scale: shape.attentionScale,
    ...(live ? { live } : {}),
    causal: own !== null || stored > 0,
    ...(lists ? { lists } : {}),
    ...(rotation ? { rotation } : {}),
  }).output
}

/** Cuts a lane into runs, in each of which either part has one form. Runs are at most a tile long; the queries' own rows are a run of their own. */
function runsOf(lane: Readable, { stored, ranges }: Reading): readonly Run[] {
  const total = lane.rows
  const past = total - stored
  const cuts = new Set([past, total, ...(ranges ?? [[0, total]]).flat()])
  for (const part of [lane.keys, lane.values]) {
    const [sinks, sealed] = part.views.zoneEnds
    cuts.add(sinks)
    cuts.add(sealed)
  }
  // All rows of a run have one position shift, and are decoded with what one prompt fitted.
  for (const part of [lane.keys, lane.values]) {
    let [at, shift, fitted]: [number, number, Fitted | null] = [0, 0, null]
    for (const view of part.views.all()) {
      if (view.shift !== shift || view.page.fitted !== fitted) cuts.add(at)
      ;[shift, fitted] = [view.shift, view.page.fitted]
      at += view.rows
    }
  }
  const inside = (row: number) => (ranges ?? [[0, total]]).some(([a, b]) => row >= a && row < b)
  const points = [...cuts].sort((a, b) => a - b)
  const runs: Run[] = []
  for (const [i, from] of points.entries()) {
    const end = points[i + 1] ?? from
    if (end <= from || from >= past || !inside(from)) continue
    for (let at = from; at < end; at += TILE_ROWS)
      runs.push({ from: at, rows: Math.min(TILE_ROWS, end - at), own: false })
  }
  if (stored > 0) runs.push({ from: past, rows: stored, own: true })
  return runs
}

/** What attention to some of the rows gives. */
interface Share {
  readonly output: tf.Tensor
  /** The log-sum-exps, `[lane queryHeads, n]`. */
  readonly sums: tf.Tensor
}

/** The numbers of a list that name rows `[from, from + rows)`, counted from `from` on. */
function within(list: Int32Array, from: number, rows: number): Int32Array {
  const start = list.findIndex((row) => row >= from)
  if (start < 0) return list.subarray(0, 0)
  let end = start
  while (end < list.length && (list[end] ?? 0) < from + rows) end++
  return list.slice(start, end).map((row) => row - from)
}

function attendRun(lane: Readable, reading: Reading, run: Run, lists: readonly Int32Array[] | null): Share {
  const { from, rows, own } = run
  const live = reading.live && tf.slice(reading.live as tf.Tensor2D, [0, from], [-1, rows])
  const positions = reading.rotation && tf.slice(reading.rotation.positions as tf.Tensor2D, [0, from], [-1, rows])
  const transient: tf.Tensor[] = []
  const keys = keySideOf(lane, reading, run, transient)
  const values = valueSideOf(lane, reading, run, transient)
  const { output, sums } = attendPart(lane, {
    queries: keys.queries,
    keys: keys.segments,
    values: values.segments,
    keyDim: keys.dim,
    valueDim: values.dim,
    live,
    causal: own,
    lists,
    rotation:
      reading.rotation && positions && keys.segments.some((s) => s.unrotated)
        ? { ...reading.rotation, positions }
        : null,
  })
  const expanded = values.finish(output)
  if (expanded !== output) output.dispose()
  disposeAll([...transient, live, positions])
  return { output: expanded, sums }
}

function attendOwn(lane: Readable, { variants, variantOf, rotation, live }: Reading, own: OwnRows): Share {
  const mask = live && tf.slice(live as tf.Tensor2D, [0, lane.rows], [-1, own.n])
  const query = rotation ? 0 : variantOf(lane.shift)
  const part = attendPart(lane, {
    queries: variants,
    keys: [{ ...DENSE, tensors: [own.keys], rows: own.n, query }],
    values: [{ ...DENSE, tensors: [own.values], rows: own.n }],
    live: mask,
    causal: true,
  })
  mask?.dispose()
  return part
}

function attendFetched(
  lane: Readable,
  { variants, rotation }: Reading,
  fetched: NonNullable<Reading['fetched']>,
): Share {
  const rows = fetched.keys.shape[1] ?? 0
  const turned = rotation && fetched.positions ? { ...rotation, positions: fetched.positions } : null
  return attendPart(lane, {
    queries: variants,
    keys: [{ ...DENSE, tensors: [fetched.keys], rows, query: 0, ...(turned ? { unrotated: true } : {}) }],
    values: [{ ...DENSE, tensors: [fetched.values], rows }],
    live: fetched.live,
    causal: false,
    rotation: turned,
  })
}

/** Calls the kernel once, for its output and its log-sum-exps. */
function attendPart(
  lane: Readable,
  {
    live,
    rotation,
    lists,
    ...call
  }: {
    readonly queries: readonly tf.Tensor[]
    readonly keys: readonly RowSegment[]
    readonly values: readonly RowSegment[]
    readonly keyDim?: number
    readonly valueDim?: number
    readonly live: tf.Tensor | null
    readonly causal: boolean
    readonly rotation?: Reading['rotation']
    readonly lists?: readonly Int32Array[] | null
  },
): Share {
  const { heads, keyDim, valueDim, attentionScale } = lane.shape
  const { output, logSumExp } = pagedAttention({
    keyDim,
    valueDim,
    ...call,
    kvHeads: heads.length,
    scale: attentionScale,
    logSumExp: true,
    ...(lists ? { lists } : {}),
    ...(live ? { live } : {}),
    ...(rotation ? { rotation } : {}),
  })
  if (!logSumExp) throw new Error('no log-sum-exp')
  return { output, sums: logSumExp }
}

/** Makes the softmax over all runs from their outputs and log-sum-exps, and frees the parts. */
function join(parts: readonly Share[]): tf.Tensor {
  const [only] = parts
  if (!only) throw new Error('nothing to attend to')
  const joined =
    parts.length === 1
      ? tf.clone(only.output)
      : tf.tidy(() => {
          const sums = tf.stack(parts.map((p) => p.sums))
          const largest = tf.maximum(tf.max(sums, 0), -1e30)
          const weights = parts.map((p) => tf.exp(tf.sub(p.sums, largest)))
          const total = tf.maximum(tf.addN(weights), 1e-30)
          const sum = tf.addN(parts.map((p, i) => tf.mul(p.output, tf.expandDims(weights[i] as tf.Tensor, 2))))
          return tf.div(sum, tf.expandDims(total, 2))
        })
  for (const { output, sums } of parts) tf.dispose([output, sums])
  return joined
}
