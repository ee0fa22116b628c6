/** Attention written out in plain double precision. A cache's output is checked against it. */
import type { ModelShape } from '@kvloom/core'
import type { NdArray } from '@kvloom/golden'
import { type Held, type HeldHead, rowsOf } from './held'

/** This step's rows before RoPE, as plain numbers. */
export interface PlainStep {
  readonly queries: NdArray
  readonly keys: NdArray
  readonly values: NdArray
}

/** How a step reads what is held. */
export interface Reading {
  /** The original position of the step's first token. */
  readonly start: number
  /** Whether held rows are read at positions 0, 1, ... without gaps instead of their original ones; the step's own rows follow them. */
  readonly slots: boolean
  /** Whether the step's own rows are among the held ones and read as they are held. Otherwise they are read as they came, behind the held ones. */
  readonly stored: boolean
  /** Whether a query head reads row number `row` of its KV head. */
  readonly reads: (queryHead: number, row: number) => boolean
}

/** Output `[queryHeads, n, valueDim]` of the step's queries over what is held and, causally, over the step's own rows. */
export function plainAttention(model: ModelShape, held: Held, step: PlainStep, reading: Reading): Float64Array {
  const { queryHeads, kvHeads, keyDim, valueDim, attentionScale } = model
  const { start, slots, stored, reads } = reading
  const [, n = 0] = step.queries.shape
  const output = new Float64Array(queryHeads * n * valueDim)
  for (let head = 0; head < queryHeads; head++) {
    const kvHead = Math.floor((head * kvHeads) / queryHeads)
    const live = liveRowsOf(model, held[kvHead], slots)
    const first = slots ? live.length - (stored ? n : 0) : start
    const own = stored ? [] : ownRows(model, step, kvHead, first)
    const queries = rowsOf(step.queries, head)
    const past = live.filter(({ row }) => reads(head, row))
    queries.forEach((given, i) => {
      const query = rotate(given, first + i, model)
      const rows = [...past.filter(({ position }) => position <= start + i), ...own.slice(0, i + 1)]
      const scores = rows.map(({ key }) => attentionScale * dot(query, key, keyDim))
      const top = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
      const weights = scores.map((score) => Math.exp(score - top))
      const total = weights.reduce((sum, w) => sum + w, 0)
      rows.forEach(({ value }, r) => {
        for (let c = 0; c < valueDim; c++) {
          const at = (head * n + i) * valueDim + c
          output[at] = (output[at] ?? 0) + ((weights[r] ?? 0) / total) * (value[c] ?? 0)
        }
      })
    })
  }
  return output
}

interface Row {
  /** The number of the row among the stored rows of its head. */
  readonly row: number
  readonly position: number
  readonly key: ArrayLike<number>
  readonly value: ArrayLike<number>
}

function liveRowsOf(model: ModelShape, held: HeldHead | undefined, slots: boolean): Row[] {
  const rows: Row[] = []
  held?.positions.forEach((position, row) => {
    if (position < 0) return
    const key = held.keys[row] ?? []
    // Held keys are rotated to their original positions already.
    const move = slots ? rows.length - position : 0
    rows.push({
      row,
      position,
      key: move === 0 ? key : rotate(key, move, model, 1),
      value: held.values[row] ?? [],
    })
  })
  return rows
}

function ownRows(model: ModelShape, step: PlainStep, kvHead: number, first: number): Row[] {
  const values = rowsOf(step.values, kvHead)
  return rowsOf(step.keys, kvHead).map((key, i) => ({
    row: -1,
    position: first + i,
    key: rotate(key, first + i, model),
    value: values[i] ?? [],
  }))
}

/** Rotary embedding that pairs channel j with channel j + dim / 2. */
export function rotate(
  x: ArrayLike<number>,
  position: number,
  { rope }: ModelShape,
  factor = rope?.attentionFactor ?? 1,
): Float64Array {
  const y = Float64Array.from(x)
  if (!rope) return y
  const half = rope.dim / 2
  for (let j = 0; j < half; j++) {
    const angle = position * (rope.frequencies[j] ?? 0)
    const [cos, sin] = [factor * Math.cos(angle), factor * Math.sin(angle)]
    const [a, b] = [x[j] ?? 0, x[j + half] ?? 0]
    y[j] = a * cos - b * sin
    y[j + half] = b * cos + a * sin
  }
  return y
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>, n: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += (a[i] ?? 0) * (b[i] ?? 0)
  return sum
}
