/** Reads what a cache holds, as plain numbers. */
import { type KVCache, siteOf, stagesOn } from '@kvloom/core'
import { fromTensor, type NdArray } from '@kvloom/golden'
import { dispose, tidy } from '@tensorflow/tfjs-core'

/** What one KV head holds. Heads of a ragged layer hold different numbers of rows. */
export interface HeldHead {
  /** One entry per row: keys `[keyDim]` after RoPE at `positions`, and values `[valueDim]`. */
  readonly keys: readonly Float32Array[]
  readonly values: readonly Float32Array[]
  /** The original position of every row, and -1 for a dropped row that its block still holds. */
  readonly positions: Int32Array
}
/** What every KV head of the model holds. */
export type Held = readonly HeldHead[]

/** Reads the rows that a layer attends to: its own in all lanes, or those of the layer that it shares with. */
export async function heldIn(cache: KVCache, layer: number): Promise<Held> {
  const held: HeldHead[] = []
  for (const [lane, { heads }] of cache.segments(cache.sourceLayer(layer)).entries()) {
    const { keys, values, positions } = await cache.materialize(layer, lane)
    const [k, v] = [await fromTensor(keys), await fromTensor(values)]
    dispose([keys, values])
    for (const [i, head] of heads.entries())
      held[head] = { keys: rowsOf(k, i), values: rowsOf(v, i), positions: Int32Array.from(positions[i] ?? []) }
  }
  return held
}

/** The rows of one head of `[heads, rows, dim]`. */
export function rowsOf({ shape, data }: NdArray, head: number): Float32Array[] {
  const [, rows = 0, dim = 0] = shape
  return Array.from({ length: rows }, (_, row) => {
    const at = (head * rows + row) * dim
    return data.subarray(at, at + dim) as Float32Array
  })
}

/** How many rows of a head are live. */
export const liveRows = ({ positions }: HeldHead): number => positions.filter((p) => p >= 0).length

/** Whether rows are read at positions 0, 1, ... without gaps, because they were resampled or are numbered anew after a drop. */
export const usesSlots = (cache: KVCache, layer: number): boolean =>
  stagesOn(cache.compressor, 'resample', layer).length > 0 ||
  stagesOn(cache.compressor, 'pick', layer).some((stage) => {
    let slots = false
    // Frees the tables that the stage asks for.
    tidy(() => {
      slots = stage.bind(siteOf(cache.model, layer, 'keys')).positions === 'slot'
    })
    return slots
  })

/** The bits of numbers, so that they can be compared exactly. */
export const bitsOf = (row: NdArray['data']): string =>
  Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString('base64')

/** Whether tensors are equal one by one, in shape and in every bit. */
export const sameBits = (a: readonly NdArray[], b: readonly NdArray[]): boolean =>
  a.length === b.length &&
  a.every(({ shape, data }, i) => shape.join() === b[i]?.shape.join() && bitsOf(data) === bitsOf(b[i].data))

/** Writes everything that a cache holds as text. Two texts are equal exactly when every bit is. */
export async function snapshot(cache: KVCache): Promise<readonly string[]> {
  const { index, perPrompt, host } = cache.bytes()
  const lines: string[] = [JSON.stringify({ index, perPrompt, host })]
  for (let layer = 0; layer < cache.model.layers; layer++) {
    lines.push(JSON.stringify(cache.census(layer)))
    for (const [h, { keys, values, positions }] of (await heldIn(cache, layer)).entries())
      for (const [row, position] of positions.entries())
        lines.push(`${layer} ${h} ${position} ${bitsOf(keys[row] ?? NOTHING)} ${bitsOf(values[row] ?? NOTHING)}`)
  }
  return lines
}
const NOTHING = new Float32Array(0)

/** The first place where two snapshots differ, in a few words; empty when they are equal. */
export function differenceOf(actual: readonly string[], expected: readonly string[]): string {
  const at = expected.findIndex((line, i) => line !== actual[i])
  if (at < 0)
    return actual.length === expected.length ? '' : `${actual.length - expected.length} rows more than expected`
  const show = (line = 'nothing') => (line.length > 120 ? `${line.slice(0, 120)}…` : line)
  return `line ${at} is ${show(actual[at])}, expected ${show(expected[at])}`
}
