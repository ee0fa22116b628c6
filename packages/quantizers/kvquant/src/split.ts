/** Splits rows into a dense part between -1 and 1 and exact outliers: keys by ranges of their channels, values by those of the token (arXiv 2401.18079, sections 3.1, 3.2 and 3.4). */

/** Ranges of key channels, `[dim]` each, from calibration. */
export interface ChannelRanges {
  readonly lower: Float32Array
  readonly upper: Float32Array
  /** Middle of a channel's range, and half of its length. */
  readonly offset: Float32Array
  readonly range: Float32Array
}

/** A row without its outliers. */
export interface DenseRow {
  readonly offset: number
  readonly range: number
  /** Places of outliers, rising. */
  readonly outliers: readonly number[]
}

/** Beyond any signpost, and near enough that its distances are finite. */
const FAR = 4

/** `(x - offset) / range` in f32 operations, as signposts are compared with it; 0 where a range has no length. */
export function normalized(x: number, offset: number, range: number): number {
  if (range === 0) return 0
  const value = Math.fround(Math.fround(x - offset) / range)
  return Math.min(FAR, Math.max(-FAR, value))
}

/** Middle and half length, in f32. */
export const middleOf = (lower: number, upper: number): { readonly offset: number; readonly range: number } => ({
  offset: Math.fround(Math.fround(upper + lower) / 2),
  range: Math.fround(Math.fround(upper - lower) / 2),
})

/** How many of `count` numbers are outliers at each end, when `dense` of them are not. No end takes more than half. */
export function outliersPerEnd(count: number, dense: number): number {
  if (dense >= 1) return 0
  // Ranks from the quantile on; a product that should be whole may lie a rounding below.
  const rank = Math.floor(((count - 1) * (1 - dense)) / 2 + 1e-9)
  return Math.min(rank + 1, Math.floor(count / 2))
}

/**
 * Places of key numbers outside of their channels' ranges. Where there are more than `room`, those that are farthest outside; the
 * others are quantized to the nearest end.
 */
export function keyOutliers(row: Float32Array, { lower, upper }: ChannelRanges, room: number): readonly number[] {
  const outside: { place: number; excess: number }[] = []
  if (room === 0) return []
  for (let place = 0; place < row.length; place++) {
    const x = row[place] ?? 0
    const excess = Math.max((lower[place] ?? 0) - x, x - (upper[place] ?? 0))
    if (excess > 0) outside.push({ place, excess })
  }
  if (outside.length > room) outside.sort((a, b) => b.excess - a.excess || a.place - b.place)
  return outside
    .slice(0, room)
    .map(({ place }) => place)
    .sort((a, b) => a - b)
}

/** The `perEnd` smallest and largest numbers of a value row, and the range of the others. Of equal numbers the first are outliers. */
export function denseValues(row: Float32Array, perEnd: number): DenseRow {
  const sorted = row.slice().sort()
  const n = row.length
  const rest = n - 2 * perEnd
  // Without any others, as if they were the median.
  const [lowest, highest] = rest > 0 ? [perEnd, n - perEnd - 1] : [perEnd - 1, perEnd - 1]
  const middle = middleOf(sorted[lowest] ?? 0, sorted[highest] ?? 0)
  if (perEnd === 0) return { ...middle, outliers: [] }
  const taken = new Set<number>()
  take(row, perEnd, sorted[perEnd - 1] ?? 0, -1, taken)
  take(row, perEnd, sorted[n - perEnd] ?? 0, 1, taken)
  return { ...middle, outliers: [...taken].sort((a, b) => a - b) }
}

/** Takes `count` places whose numbers are at the bound or beyond it, those beyond it before the others. */
function take(row: Float32Array, count: number, bound: number, side: 1 | -1, taken: Set<number>): void {
  let left = count
  for (const beyond of [true, false])
    for (let place = 0; place < row.length && left > 0; place++) {
      const x = row[place] ?? 0
      if (taken.has(place) || (beyond ? side * (x - bound) <= 0 : x !== bound)) continue
      taken.add(place)
      left--
    }
}

/** The quantile `share` of sorted numbers, interpolated linearly. */
export function quantileOf(sorted: Float32Array, share: number): number {
  const at = share * (sorted.length - 1)
  const below = Math.floor(at)
  const [a, b] = [sorted[below] ?? 0, sorted[Math.min(below + 1, sorted.length - 1)] ?? 0]
  return Math.fround(a + (at - below) * (b - a))
}
