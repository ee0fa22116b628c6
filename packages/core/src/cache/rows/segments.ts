/** Hands rows of a part to the attention kernels as they are stored, which must be a form that the kernels read. */
import type { RowSegment } from '@kvloom/kernels'
import type * as tf from '@tensorflow/tfjs-core'
import { uploads } from './host-page'
import type { View } from './page'
import type { Rows } from './rows'
import { ZONES } from './zones'

/** The kernels remember for each segment object what they have checked, so a view that did not change keeps its segment. */
const known = new WeakMap<View, RowSegment>()

/**
 * The segments of rows `[from, from + count)`, as the KV heads of attention read them. `variantOf` says which variant of the query reads rows of a
 * shift; `unrotated` marks keys that are stored before RoPE, which the kernels rotate; `share` KV heads read each head of `main`.
 */
export function segmentsOf(
  of: Rows,
  from: number,
  count: number,
  variantOf: (shift: number) => number,
  unrotated: boolean,
  share = 1,
): RowSegment[] {
  const segments: RowSegment[] = []
  const merged = of.form.codec?.mergedHeads
  const add = (view: View, skip: number, rows: number) =>
    segments.push(
      segmentOf(of, view, skip, rows, variantOf(view.shift), unrotated, share, view.page.sealed ? merged : undefined),
    )
  if (from === 0 && count === of.count)
    for (const zone of ZONES) for (const view of of.views.in(zone)) add(view, 0, view.rows)
  else for (const { view, skip, rows } of of.views.cut(from, count)) add(view, skip, rows)
  return segments
}

/** The segment of rows `skip ... skip + rows` of a view. `mergedHeads` heads of a page that has them in one row are read apart; by default they are one. */
export function segmentOf(
  of: Rows,
  view: View,
  skip: number,
  rows: number,
  query = 0,
  unrotated = false,
  share = 1,
  mergedHeads?: number,
): RowSegment {
  const whole = skip === 0 && rows === view.rows
  const before = whole ? known.get(view) : undefined
  if (
    before &&
    before.query === query &&
    before.share === share &&
    (before.unrotated ?? false) === unrotated &&
    before.mergedHeads === mergedHeads
  )
    return before
  const segment = makeSegment(of, view, view.from + skip, rows, query, unrotated, share, mergedHeads)
  if (whole) known.set(view, segment)
  return segment
}

function makeSegment(
  { form }: Rows,
  { page }: View,
  from: number,
  rows: number,
  query: number,
  unrotated: boolean,
  share: number,
  mergedHeads: number | undefined,
): RowSegment {
  const { layout } = page.form
  const { block } = uploads(page)
  const base = { from, rows, query, share, ...(unrotated ? { unrotated } : {}) }
  const named = (...names: string[]) => names.map((n) => block[n]).filter((t): t is tf.Tensor => t !== undefined)
  if (layout.kind === 'dense') return { layout, tensors: named('rows'), ...base }
  if (layout.kind === 'affine') return { layout, tensors: named('words', 'metadata'), ...base }
  if (layout.kind === 'custom') throw new Error('a custom layout has no segment')
  const { table, ranges } = form.codec?.parts.quantizer ?? {}
  return {
    layout,
    tensors: named('codes', 'metadata', 'maps', 'outliers', 'places'),
    ...(table ? { table } : {}),
    ...(ranges ? { ranges } : {}),
    ...(mergedHeads === undefined ? {} : { mergedHeads }),
    ...base,
  }
}
