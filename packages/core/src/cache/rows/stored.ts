/** What is stored of rows: the tensors of a quantizer's block, or the rows themselves, and the scales that a transform left beside them. */
import type { AffineLayout, BlockField, CodebookLayout, CustomLayout, Lossless, RowStore } from '../../contract'

export type PageLayout =
  | AffineLayout
  | CodebookLayout
  | CustomLayout
  | { readonly kind: 'dense'; readonly store: RowStore }

export interface Stored<T> {
  /** By the names of the quantizer's fields; `rows` where nothing packs them. */
  readonly block: Readonly<Record<string, T>>
  /** f16 `[heads, rows, layers of the group]`: what decoded rows are multiplied by. */
  readonly scale: T | null
}

/** How it is stored. */
export interface StoredForm {
  readonly layout: PageLayout
  readonly fields: Readonly<Record<string, BlockField>>
  /** What codes the tensors when they leave the device. */
  readonly lossless: Lossless | null
}

const PLAIN: BlockField = { counts: 'payload' }
const SCALE: BlockField = { counts: 'metadata' }

/** The form of a layout. What the kernels read (`affine`, `codebook`) has the tensors that the kernels' own encoders make. */
export const formOf = (layout: PageLayout, lossless: Lossless | null): StoredForm => ({
  layout,
  fields: fieldsOf(layout),
  lossless,
})

function fieldsOf(layout: PageLayout): StoredForm['fields'] {
  switch (layout.kind) {
    case 'dense':
      return { rows: PLAIN }
    case 'affine':
      return { words: PLAIN, metadata: SCALE }
    case 'codebook': {
      const { scale, metadata, outliers = 0 } = layout
      // Norms of two rows share a word, as halves.
      const rowsPerUnit = scale !== 'group' || metadata === 'f32' ? 1 : 2
      return {
        codes: PLAIN,
        ...(scale === 'none' || scale === 'channel' ? {} : { metadata: { ...SCALE, rowsPerUnit } }),
        ...(scale === 'map' ? { maps: SCALE } : {}),
        ...(outliers > 0 ? { outliers: PLAIN, places: SCALE } : {}),
      }
    }
    case 'custom':
      return layout.fields
  }
}

/** The form of rows that nothing packs. */
export const denseForm = (store: RowStore, lossless: Lossless | null): StoredForm =>
  formOf({ kind: 'dense', store }, lossless)

export const perUnit = ({ rowsPerUnit = 1 }: BlockField): number => rowsPerUnit

/** How many rows share a row of the tensor in which most of them do. */
export const unitOf = ({ fields }: StoredForm): number => Math.max(1, ...Object.values(fields).map(perUnit))

/** Changes every tensor. `same` finds the same tensor in what another page stores in this form. */
export function mapStored<A, B>(
  { block, scale }: Stored<A>,
  { fields }: StoredForm,
  change: (a: A, field: BlockField, same: <T>(of: Stored<T>) => T) => B,
): Stored<B> {
  const changed = Object.entries(block).map(([name, a]) => [
    name,
    change(a, fields[name] ?? PLAIN, (of) => present(of.block[name], name)),
  ])
  return {
    block: Object.fromEntries(changed) as Readonly<Record<string, B>>,
    scale: scale === null ? null : change(scale, SCALE, (of) => present(of.scale, 'scale')),
  }
}

function present<T>(found: T | null | undefined, name: string): T {
  if (found === null || found === undefined)
    throw new Error(`a page of this form stores ${name}, and this one does not`)
  return found
}

export const listStored = <T>({ block, scale }: Stored<T>): readonly T[] =>
  scale === null ? Object.values(block) : [...Object.values(block), scale]
