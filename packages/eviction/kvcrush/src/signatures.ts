/** Signatures of pages, their distances to an anchor, and which pages represent the others. */
import type { OptionsOf } from '@kvloom/core'
import type { kvcrushOptions } from './options'
import { randomBits } from './random-bits'

export type Anchor = OptionsOf<typeof kvcrushOptions>['anchor']
export type Spacing = OptionsOf<typeof kvcrushOptions>['spacing']

/** Signatures of pages one behind the other, `width` bits each, one bit a byte. */
export interface Signatures {
  readonly bits: Uint8Array
  readonly width: number
}

/** Indices of the `count` largest, in their order; of equal ones the earlier. */
export function largest(scores: ArrayLike<number>, count: number): number[] {
  const order = Array.from({ length: scores.length }, (_, i) => i)
  order.sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
  return order.slice(0, Math.max(0, count)).sort((a, b) => a - b)
}

/** Which tokens are in the better half of these scores, `trunc(n / 2)` of them. */
export function betterHalf(scores: ArrayLike<number>): Uint8Array {
  const bits = new Uint8Array(scores.length)
  for (const i of largest(scores, Math.trunc(scores.length / 2))) bits[i] = 1
  return bits
}

/** The anchor: `width` bits. The means are over the signatures of all pages. */
export function anchorOf({ bits, width }: Signatures, anchor: Anchor, seed: number): Uint8Array {
  if (anchor === 'random') return randomBits(width, seed)
  const pages = bits.length / width
  return Uint8Array.from({ length: width }, (_, i) => {
    if (anchor === 'zeros') return 0
    if (anchor === 'ones') return 1
    if (anchor === 'alternating') return i % 2
    let ones = 0
    for (let page = 0; page < pages; page++) ones += bits[page * width + i] ?? 0
    return Number(anchor === 'mean' ? 2 * ones > pages : 2 * ones < pages)
  })
}

/** Hamming distance of each page's signature to the anchor. */
export function distancesTo(anchor: Uint8Array, { bits, width }: Signatures): Int32Array {
  const distances = new Int32Array(bits.length / width)
  for (const [at, bit] of bits.entries())
    if (bit !== anchor[at % width]) distances[Math.floor(at / width)] = (distances[Math.floor(at / width)] ?? 0) + 1
  return distances
}

/** Pages in the order of their distance, of equal ones the earlier. */
export const byDistance = (pages: readonly number[], distances: Int32Array): number[] =>
  [...pages].sort((a, b) => (distances[a] ?? 0) - (distances[b] ?? 0) || a - b)

/** Which of `eligible` pages in order of distance are taken; all where there are no more than `count`. */
export function ranksOf(eligible: number, count: number, spacing: Spacing): number[] {
  const taken = Math.min(eligible, count)
  if (taken <= 0) return []
  const stride = Math.floor(eligible / taken)
  return Array.from({ length: taken }, (_, j) =>
    spacing === 'stride' ? j * stride : taken === 1 ? 0 : Math.floor((j * (eligible - 1)) / (taken - 1)),
  )
}
