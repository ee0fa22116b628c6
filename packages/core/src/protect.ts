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
  const marks = new Int32Array(sets * rows)
  for (let set = 0; set < sets; set++)
    mark(marks.subarray(set * rows, (set + 1) * rows), live?.[set] ?? null, first, last)
  return tf.tidy(() => {
    const uploaded = tf.tensor2d(marks, [sets, rows], 'int32')
    const heads = Math.max(sets, scores.shape[0])
    const onAll = (t: tf.Tensor2D): tf.Tensor2D => (t.shape[0] === heads ? t : tf.tile(t, [heads, 1]))
    const [each, marked] = [onAll(scores), onAll(uploaded)]
    const dropped = tf.where(tf.equal(marked, DROPPED), tf.fill(each.shape, Number.NEGATIVE_INFINITY), each)
    return tf.where(tf.equal(marked, STAYS), tf.fill(each.shape, Number.POSITIVE_INFINITY), dropped) as tf.Tensor2D
  })
}

const [FREE, DROPPED, STAYS] = [0, 1, 2]

/** Marks the rows of a head (all live where `live` is null): those that are dropped, and the first and the last of the others. */
function mark(marks: Int32Array, live: Int32Array | null, first: number, last: number): void {
  let count = marks.length
  if (live) {
    count = 0
    for (let row = 0; row < marks.length; row++) if (live[row] === 1) count++
  }
  let number = 0
  for (let row = 0; row < marks.length; row++) {
    if (live && live[row] !== 1) {
      marks[row] = DROPPED
      continue
    }
    marks[row] = number < first || number >= count - last ? STAYS : FREE
    number++
  }
}
