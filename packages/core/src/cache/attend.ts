/**
 * Attention over a lane whose rows are stored in several forms. Rows of one form make a run; each run is attended to in the form
 * it is stored in (latents on the query or output side, tiles where rows must be decoded), and the runs are joined by their
 * log-sum-exps. A lane that kernels can read as it is needs none of this: one call does it.
 */
import { pagedAttention, type RowSegment } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Part } from '../contract'
import type { Lane } from './lane'
import type { Page } from './page'
import type { PartStore } from './part-store'

/** Rows that are decoded at a time. */
const TILE_ROWS = 1024

/** This step's own rows: keys already rotated, values as they are. */
export interface OwnRows {
  readonly keys: tf.Tensor
  readonly values: tf.Tensor
  readonly n: number
}

/** What a lane's attention needs from outside. */
export interface Reading {
  /** Query variants, rotated, `[lane queryHeads, n, keyDim]`; which one reads rows of a shift. */
  readonly variants: readonly tf.Tensor[]
  readonly variantOf: (shift: number) => number
  /** This step's rows, not stored yet; null when the last `stored` rows are the queries' own (0: none are). */
  readonly own: OwnRows | null
  readonly stored: number
  /** int32 `[heads, rows + own.n]`, null while all live. */
  readonly live: tf.Tensor | null
  /** For keys stored before RoPE: tables, and the position of every row `[heads, rows + own.n]`. */
  readonly rotation: { readonly cos: tf.Tensor; readonly sin: tf.Tensor; readonly positions: tf.Tensor } | null
  readonly prediction: (part: Part) => tf.Tensor2D | null
  /** Ranges of stored rows to read; all when absent. */
  readonly ranges?: readonly (readonly [number, number])[]
  /** Rows fetched from a host tier, read beside the ranges: decoded, keys as stored, `positions` `[heads, n]`. */
  readonly fetched?: { readonly keys: tf.Tensor; readonly values: tf.Tensor; readonly positions: tf.Tensor | null }
}

/** `[lane queryHeads, n, valueDim]`. */
export function attendLane(lane: Lane, reading: Reading): tf.Tensor {
  const { keys, values } = lane
  if (keys.fused && values.fused && !reading.ranges && !reading.fetched) return attendAtOnce(lane, reading)
  const partial = runsOf(lane, reading).map((run) => attendRun(lane, reading, run))
  if (reading.fetched) partial.push(attendFetched(lane, reading, reading.fetched))
  if (reading.own) partial.push(attendOwn(lane, reading, reading.own))
  return join(partial)
}

function attendAtOnce(lane: Lane, { variants, variantOf, own, stored, live, rotation }: Reading): tf.Tensor {
  const { shape, keys, values } = lane
  const keySegments = keys.segments(0, keys.rows, rotation ? () => 0 : variantOf, rotation !== null)
  const valueSegments = values.segments(0, values.rows, () => 0, false)
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
    ...(rotation ? { rotation } : {}),
  }).output
}

const DENSE = { layout: { kind: 'dense', store: 'f32' }, from: 0 } as const

interface Run {
  readonly from: number
  readonly rows: number
  /** The queries' own rows, stored already. */
  readonly own: boolean
}

/** Runs of one form per part; decoded ones in tiles. The queries' own rows are one run. */
function runsOf(lane: Lane, { stored, ranges }: Reading): readonly Run[] {
  const total = lane.rows
  const past = total - stored
  const cuts = new Set([past, total, ...(ranges ?? [[0, total]]).flat()])
  for (const part of [lane.keys, lane.values]) {
    const sinks = part.rowsIn('sink')
    cuts.add(sinks)
    cuts.add(sinks + part.rowsIn('sealed'))
  }
  // A run has one position shift, and rows that one prompt's fit decodes.
  for (const part of [lane.keys, lane.values]) {
    let [at, shift, fitted]: [number, number, Page | null] = [0, 0, null]
    for (const view of part.views()) {
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

interface Partial {
  readonly output: tf.Tensor
  /** `[lane queryHeads, n]`. */
  readonly sums: tf.Tensor
}

function attendRun(lane: Lane, reading: Reading, run: Run): Partial {
  const { from, rows, own } = run
  const live = reading.live && tf.slice(reading.live as tf.Tensor2D, [0, from], [-1, rows])
  const positions = reading.rotation && tf.slice(reading.rotation.positions as tf.Tensor2D, [0, from], [-1, rows])
  const transient: tf.Tensor[] = [live, positions].filter((t) => t !== null)
  const keys = keysOf(lane, reading, run, transient)
  const values = valuesOf(lane, reading, run, transient)
  const { output, sums } = attendPart(lane, {
    queries: keys.queries,
    keys: keys.segments,
    values: values.segments,
    keyDim: keys.dim,
    valueDim: values.dim,
    live,
    causal: own,
    rotation:
      reading.rotation && positions && keys.segments.some((s) => s.unrotated)
        ? { ...reading.rotation, positions }
        : null,
  })
  const expanded = values.finish(output)
  if (expanded !== output) output.dispose()
  tf.dispose(transient)
  return { output: expanded, sums }
}

interface KeySide {
  readonly queries: readonly tf.Tensor[]
  readonly segments: readonly RowSegment[]
  readonly dim: number
}

function keysOf(lane: Lane, reading: Reading, { from, rows, own }: Run, transient: tf.Tensor[]): KeySide {
  const { keys, shape } = lane
  const { variants, rotation } = reading
  const variantOf = rotation ? () => 0 : reading.variantOf
  const unrotated = rotation !== null
  const form = own ? 'decoded' : formOf(keys, from)
  if (form === 'stored')
    return { queries: variants, segments: keys.segments(from, rows, variantOf, unrotated), dim: shape.keyDim }
  const { codec } = keys
  const up = codec && form === 'latent' && !unrotated ? upOf(keys, from) : null
  if (codec && up && codec.mainHeads === shape.heads.length) {
    // q . (main . up)^T = (q . up^T) . main^T
    const projected = variants.map((q) => onQueries(q, up))
    const main = keys.readLatents(from, rows)
    transient.push(...projected, main, up)
    const query = variantOf(keys.shiftAt(from))
    return { queries: projected, segments: [{ ...DENSE, tensors: [main], rows, query }], dim: codec.mainDim }
  }
  if (up) transient.push(up)
  const decoded = keys.readRange(from, rows, reading.prediction('keys'))
  transient.push(decoded)
  const query = variantOf(keys.shiftAt(from))
  return {
    queries: variants,
    segments: [{ ...DENSE, tensors: [decoded], rows, query, ...(unrotated ? { unrotated } : {}) }],
    dim: shape.keyDim,
  }
}

interface ValueSide {
  readonly segments: readonly RowSegment[]
  readonly dim: number
  /** What attention gave, as values `[queryHeads, n, valueDim]`. */
  finish(output: tf.Tensor): tf.Tensor
}

function valuesOf(lane: Lane, reading: Reading, { from, rows, own }: Run, transient: tf.Tensor[]): ValueSide {
  const { values, shape } = lane
  const form = own ? 'decoded' : formOf(values, from)
  const same = (output: tf.Tensor) => output
  if (form === 'stored')
    return { segments: values.segments(from, rows, () => 0, false), dim: shape.valueDim, finish: same }
  const { codec } = values
  const up = codec && form === 'latent' ? upOf(values, from) : null
  if (codec && up) {
    // p . (main . up) = (p . main) . up: values are never rebuilt.
    const main = values.readLatents(from, rows)
    const each = shape.heads.length / codec.mainHeads
    const repeated = each === 1 ? main : repeatHeads(main, shape.heads.length)
    transient.push(up, main, ...(repeated === main ? [] : [repeated]))
    return {
      segments: [{ ...DENSE, tensors: [repeated], rows }],
      dim: codec.mainDim,
      finish: (output) => onOutput(output, up, shape.heads.length, shape.valueDim),
    }
  }
  const decoded = values.readRange(from, rows, reading.prediction('values'))
  transient.push(decoded)
  return { segments: [{ ...DENSE, tensors: [decoded], rows }], dim: shape.valueDim, finish: same }
}

/** `[mainHeads, n, r]` with each main head once for every KV head it stands for. */
const repeatHeads = (main: tf.Tensor3D, heads: number): tf.Tensor =>
  tf.tidy(() => {
    const each = heads / main.shape[0]
    const of = (h: number) => tf.slice(main, [Math.floor(h / each), 0, 0], [1, -1, -1])
    return tf.concat(
      Array.from({ length: heads }, (_, h) => of(h)),
      0,
    )
  })

/** How rows from `from` on (all of one zone) can be read: as stored, as latents, or only decoded. */
function formOf(part: PartStore, from: number): 'stored' | 'latent' | 'decoded' {
  const sealed = from >= part.rowsIn('sink') && from < part.rowsIn('sink') + part.rowsIn('sealed')
  if (part.onHost) return 'decoded'
  if (!sealed || !part.codec) return 'stored'
  const { fused, byBlocks, parts } = part.codec
  if (fused) return byBlocks ? 'decoded' : 'stored'
  return parts.transform && !parts.predictor && parts.layers.length === 1 ? 'latent' : 'decoded'
}

/** `[mainHeads, mainDim, width]` of a transform that is `main . up` and nothing else, for the rows from `from` on; the caller's. */
function upOf(part: PartStore, from: number): tf.Tensor | null {
  const transform = part.codec?.parts.transform
  if (!transform) return null
  let plain: tf.Tensor | null = null
  tf.tidy(() => {
    const { up, bias } = transform.decoder(part.stateAt(from), part.codec?.parts.member ?? 0)
    if (!up || bias) return []
    plain = tf.clone(up)
    return plain
  })
  return plain
}

/** Queries `[queryHeads, n, keyDim]` by `up` `[kvHeads, r, keyDim]`: `[queryHeads, n, r]`. */
const onQueries = (queries: tf.Tensor, up: tf.Tensor): tf.Tensor =>
  tf.tidy(() => {
    const [kvHeads = 1] = up.shape
    const [queryHeads = 0, n = 0, dim = 0] = queries.shape
    const group = queryHeads / kvHeads
    return tf.concat(
      Array.from({ length: kvHeads }, (_, h) => {
        const q = tf.reshape(tf.slice(queries as tf.Tensor3D, [h * group, 0, 0], [group, -1, -1]), [group * n, dim])
        const u = tf.squeeze(tf.slice(up as tf.Tensor3D, [h, 0, 0], [1, -1, -1]), [0]) as tf.Tensor2D
        return tf.reshape(tf.matMul(q, tf.transpose(u)), [group, n, -1])
      }),
      0,
    )
  })

/** Output `[queryHeads, n, r]` by `up` `[mainHeads, r, kvHeads * dim / mainHeads]`: `[queryHeads, n, dim]`. */
const onOutput = (output: tf.Tensor, up: tf.Tensor, kvHeads: number, dim: number): tf.Tensor =>
  tf.tidy(() => {
    const [queryHeads = 0, n = 0, r = 0] = output.shape
    const group = queryHeads / kvHeads
    const each = kvHeads / (up.shape[0] ?? 1)
    return tf.concat(
      Array.from({ length: kvHeads }, (_, h) => {
        const o = tf.reshape(tf.slice(output as tf.Tensor3D, [h * group, 0, 0], [group, -1, -1]), [group * n, r])
        const block = tf.slice(up as tf.Tensor3D, [Math.floor(h / each), 0, (h % each) * dim], [1, -1, dim])
        return tf.reshape(tf.matMul(o, tf.squeeze(block, [0]) as tf.Tensor2D), [group, n, dim])
      }),
      0,
    )
  })

function attendOwn(lane: Lane, { variants, variantOf, rotation, live }: Reading, own: OwnRows): Partial {
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

function attendFetched(lane: Lane, { variants, rotation }: Reading, fetched: NonNullable<Reading['fetched']>): Partial {
  const rows = fetched.keys.shape[1] ?? 0
  const turned = rotation && fetched.positions ? { ...rotation, positions: fetched.positions } : null
  return attendPart(lane, {
    queries: variants,
    keys: [{ ...DENSE, tensors: [fetched.keys], rows, query: 0, ...(turned ? { unrotated: true } : {}) }],
    values: [{ ...DENSE, tensors: [fetched.values], rows }],
    live: null,
    causal: false,
    rotation: turned,
  })
}

/** One call of the kernel with its log-sum-exp. */
function attendPart(
  lane: Lane,
  {
    live,
    rotation,
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
  },
): Partial {
  const { heads, keyDim, valueDim, attentionScale } = lane.shape
  const { output, logSumExp } = pagedAttention({
    keyDim,
    valueDim,
    ...call,
    kvHeads: heads.length,
    scale: attentionScale,
    logSumExp: true,
    ...(live ? { live } : {}),
    ...(rotation ? { rotation } : {}),
  })
  if (!logSumExp) throw new Error('no log-sum-exp')
  return { output, sums: logSumExp }
}

/** Softmax over the union of runs from their outputs and log-sum-exps; frees the parts. */
function join(parts: readonly Partial[]): tf.Tensor {
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
