/** What stays whatever `keep` says: the rows that a scorer or a pick promises, and at least one row of every head. */
import * as tf from '@tensorflow/tfjs-core'
import type { Protected } from './contract'

/** How many of the `rows` rows of a head stay in any case: the protected ones, and at least one where there is any. */
export const floorOf = (rows: number, { first = 0, last = 0 }: Protected = {}): number =>
  Math.min(rows, Math.max(1, first + last))

/** What two stages promise together. */
export const bothProtect = (a: Protected = {}, b: Protected = {}): Protected => ({
  first: Math.max(a.first ?? 0, b.first ?? 0),
  last: Math.max(a.last ?? 0, b.last ?? 0),
})

/**
 * Lifts protected rows to infinity and lowers dropped ones to -infinity. The result `[heads, rows]` is the caller's.
 * @param scores `[heads, rows]`, or `[1, rows]` for one set of all heads
 * @param live 1 for every live row, per head; null while every row is live
 */
export function liftProtected(
  scores: tf.Tensor2D,
  live: readonly Int32Array[] | null,
  protect: Protected = {},
): tf.Tensor2D {
  const { first = 0, last = 0 } = protect
  if (!live && first + last === 0) return tf.clone(scores)
  const rows = scores.shape[1]
  const sets = live?.length ?? 1
  const dead = live && new Uint8Array(sets * rows)
  const stays = first + last > 0 ? new Uint8Array(sets * rows) : null
  for (let set = 0; set < sets; set++) {
    const own = (marks: Uint8Array | null) => marks?.subarray(set * rows, (set + 1) * rows) ?? null
    mark(live?.[set] ?? null, rows, protect, own(dead), own(stays))
  }
  return tf.tidy(() => {
    const heads = Math.max(sets, scores.shape[0])
    const onMarked = (marks: Uint8Array | null, to: number, scored: tf.Tensor): tf.Tensor =>
      marks
        ? tf.where(tf.tensor2d(repeated(marks, heads * rows), [heads, rows], 'bool'), tf.fill(scored.shape, to), scored)
        : scored
    const each = scores.shape[0] === heads ? scores : tf.tile(scores, [heads, 1])
    const dropped = onMarked(dead, Number.NEGATIVE_INFINITY, each)
    return onMarked(stays, Number.POSITIVE_INFINITY, dropped) as tf.Tensor2D
  })
}

/** Marks again and again, until there are so many. */
function repeated(marks: Uint8Array, length: number): Uint8Array {
  if (marks.length === length) return marks
  const all = new Uint8Array(length)
  for (let at = 0; at < length; at += marks.length) all.set(marks, at)
  return all
}

/** Marks the rows of a head (all live where `live` is null): those that are dropped, and the first and the last of the others. */
function mark(
  live: Int32Array | null,
  rows: number,
  { first = 0, last = 0 }: Protected,
  dead: Uint8Array | null,
  stays: Uint8Array | null,
): void {
  let count = rows
  if (live && dead)
    for (let row = 0; row < rows; row++)
      if (live[row] !== 1) {
        dead[row] = 1
        count--
      }
  if (!stays) return
  let number = 0
  for (let row = 0; row < rows; row++) {
    if (live && live[row] !== 1) continue
    if (number < first || number >= count - last) stays[row] = 1
    number++
  }
}
