/** What a cache holds, read back as plain numbers. */
import { type KVCache, stagesOn } from '@kvloom/core'
import { dispose } from '@tensorflow/tfjs-core'
import { fromTensor, type NdArray } from '../golden/array'

export interface Held {
  /** `[kvHeads, rows, keyDim]` after RoPE at the original positions, and `[kvHeads, rows, valueDim]`. */
  readonly keys: NdArray
  readonly values: NdArray
  /** Original position of every row by KV head; -1 for a dropped row that its block still holds. */
  readonly positions: readonly Int32Array[]
}

export async function heldIn(cache: KVCache, layer: number): Promise<Held> {
  const { keys, values, positions } = await cache.materialize(layer)
  const held = {
    keys: await fromTensor(keys),
    values: await fromTensor(values),
    positions: positions.map((p) => p.slice()),
  }
  dispose([keys, values])
  return held
}

/** Whether dropped rows make the others move up to positions without gaps. */
export const usesSlots = (cache: KVCache, layer: number): boolean =>
  stagesOn(cache.compressor, 'pick', layer).some((stage) => {
    const site = {
      layer,
      part: 'keys',
      model: cache.model,
      heads: cache.model.kvHeads,
      dim: cache.model.keyDim,
    } as const
    return stage.bind(site).positions === 'slot'
  })

/** Bits of row `row` of a head, to compare exactly. */
export function bitsOfRow({ shape, data }: NdArray, head: number, row: number): string {
  const [, rows = 0, dim = 0] = shape
  const at = (head * rows + row) * dim
  return Buffer.from(Uint8Array.from(new Uint8Array(data.buffer, data.byteOffset + at * 4, dim * 4))).toString('base64')
}

/** Equal in every bit, and in shape. */
export const sameBits = (a: NdArray, b: NdArray): boolean =>
  a.shape.join() === b.shape.join() &&
  Buffer.from(a.data.buffer, a.data.byteOffset, a.data.byteLength).equals(
    Buffer.from(b.data.buffer, b.data.byteOffset, b.data.byteLength),
  )

/** Everything a cache holds, as text that is equal exactly when every bit of it is. */
export async function snapshot(cache: KVCache): Promise<readonly string[]> {
  const lines: string[] = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const { keys, values, positions } = await heldIn(cache, layer)
    lines.push(JSON.stringify(cache.census(layer)))
    for (const [h, head] of positions.entries())
      for (const [row, position] of head.entries())
        lines.push(`${layer} ${h} ${position} ${bitsOfRow(keys, h, row)} ${bitsOfRow(values, h, row)}`)
  }
  return lines
}

/** The first place where two snapshots differ, in a few words; empty when they are equal. */
export function differenceOf(actual: readonly string[], expected: readonly string[]): string {
  const at = expected.findIndex((line, i) => line !== actual[i])
  if (at < 0)
    return actual.length === expected.length ? '' : `${actual.length - expected.length} rows more than expected`
  const show = (line = 'nothing') => (line.length > 120 ? `${line.slice(0, 120)}…` : line)
  return `line ${at} is ${show(actual[at])}, expected ${show(expected[at])}`
}
