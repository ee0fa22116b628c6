/** Hands rows of a part to the attention kernels as they are stored, which must be a form that the kernels read. */
import type { RowSegment } from '@kvloom/kernels'
import type * as tf from '@tensorflow/tfjs-core'
import { uploads } from './host-page'
import type { View } from './page'
import type { Rows } from './rows'

/** The kernels remember for each segment object what they have checked, so a view that did not change keeps its segment. */
const known = new WeakMap<View, RowSegment>()

/**
 * The segments of rows `[from, from + count)`. `variantOf` says which variant of the query reads rows of a shift; `unrotated` marks keys that
 * are stored before RoPE, which the kernels rotate.
 */
export function segmentsOf(
  of: Rows,
  from: number,
  count: number,
  variantOf: (shift: number) => number,
  unrotated: boolean,
): RowSegment[] {
  return [...of.views.cut(from, count)].map(({ view, skip, rows }) => {
    const query = variantOf(view.shift)
    if (skip > 0 || rows < view.rows) return makeSegment(of, view, view.from + skip, rows, query, unrotated)
    const before = known.get(view)
    if (before?.query === query) return before
    const segment = makeSegment(of, view, view.from, view.rows, query, unrotated)
    known.set(view, segment)
    return segment
  })
}

function makeSegment(
  { form }: Rows,
  { page }: View,
  from: number,
  rows: number,
  query: number,
  unrotated: boolean,
): RowSegment {
  const { layout } = page
  const tensors = uploads(page)
  const base = { from, rows, query, ...(unrotated ? { unrotated } : {}) }
  const named = (...names: string[]) => names.map((n) => tensors[n]).filter((t): t is tf.Tensor => t !== undefined)
  if (layout.kind === 'dense') return { layout, tensors: named('rows'), ...base }
  if (layout.kind === 'affine') return { layout, tensors: named('words', 'metadata'), ...base }
  if (layout.kind === 'custom') throw new Error('a custom layout has no segment')
  const table = form.codec?.parts.quantizer?.table
  return { layout, tensors: named('codes', 'metadata'), ...(table ? { table } : {}), ...base }
}
