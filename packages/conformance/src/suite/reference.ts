/** Attention written out in plain double precision: what a cache's output is checked against. */
import type { ModelShape } from '@kvloom/core'
import type { NdArray } from '../golden/array'
import type { Held } from './held'

/** This step's rows before RoPE, as plain numbers. */
export interface PlainStep {
  readonly queries: NdArray
  readonly keys: NdArray
  readonly values: NdArray
}

/**
 * Output `[queryHeads, n, valueDim]` of the step's queries over what is held and, causally, over the step's own exact rows.
 * @param start original position of the step's first token.
 * @param slots rows held are read at positions 0, 1, … without gaps instead of their original ones, the step's rows after them.
 */
export function plainAttention(
  model: ModelShape,
  held: Held,
  step: PlainStep,
  start: number,
  slots: boolean,
): Float64Array {
  const { queryHeads, kvHeads, keyDim, valueDim, attentionScale } = model
  const [, n = 0] = step.queries.shape
  const output = new Float64Array(queryHeads * n * valueDim)
  for (let head = 0; head < queryHeads; head++) {
    const kvHead = Math.floor((head * kvHeads) / queryHeads)
    const past = livePast(model, held, kvHead, slots)
    const first = slots ? past.length : start
    const own = Array.from({ length: n }, (_, i) => ({
      key: rotate(rowOf(step.keys, kvHead, i), first + i, model),
      value: rowOf(step.values, kvHead, i),
    }))
    for (let i = 0; i < n; i++) {
      const query = rotate(rowOf(step.queries, head, i), first + i, model)
      const rows = [...past, ...own.slice(0, i + 1)]
      const scores = rows.map(({ key }) => attentionScale * dot(query, key, keyDim))
      const top = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - top))
      const total = weights.reduce((sum, w) => sum + w, 0)
      rows.forEach(({ value }, r) => {
        for (let c = 0; c < valueDim; c++) {
          const at = (head * n + i) * valueDim + c
          output[at] = (output[at] ?? 0) + ((weights[r] ?? 0) / total) * (value[c] ?? 0)
        }
      })
    }
  }
  return output
}

interface Row {
  readonly key: Float64Array
  readonly value: Float64Array
}

function livePast(model: ModelShape, { keys, values, positions }: Held, kvHead: number, slots: boolean): Row[] {
  const rows: Row[] = []
  positions[kvHead]?.forEach((position, row) => {
    if (position < 0) return
    const key = rowOf(keys, kvHead, row)
    // Keys are held rotated to their original position.
    const move = slots ? rows.length - position : 0
    rows.push({ key: move === 0 ? key : rotate(key, move, model, 1), value: rowOf(values, kvHead, row) })
  })
  return rows
}

const rowOf = ({ shape, data }: NdArray, head: number, row: number): Float64Array => {
  const [, rows = 0, dim = 0] = shape
  return Float64Array.from(data.subarray((head * rows + row) * dim, (head * rows + row + 1) * dim))
}

/** Half-split rotary embedding: pairs (j, j + dim / 2). */
function rotate(
  x: Float64Array,
  position: number,
  { rope }: ModelShape,
  factor = rope?.attentionFactor ?? 1,
): Float64Array {
  if (!rope) return x
  const half = rope.dim / 2
  const y = Float64Array.from(x)
  for (let j = 0; j < half; j++) {
    const angle = position * (rope.frequencies[j] ?? 0)
    const [cos, sin] = [factor * Math.cos(angle), factor * Math.sin(angle)]
    const [a, b] = [x[j] ?? 0, x[j + half] ?? 0]
    y[j] = a * cos - b * sin
    y[j + half] = b * cos + a * sin
  }
  return y
}

function dot(a: Float64Array, b: Float64Array, n: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += (a[i] ?? 0) * (b[i] ?? 0)
  return sum
}
