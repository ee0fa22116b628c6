// Checks of segments, done once per segment object and kept while it lives.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger } from '../check'
import { checkCodebookPage, codebookTensors, readsMergedHeads } from '../codebook/layout'
import { KernelInputError } from '../errors'
import { checkAffinePage, checkRowPage, type RowSegment } from '../layouts'
import { memoryOf } from '../segment-record'

/**
 * Throws KernelInputError unless every segment is a fitting view of a live page; returns the rows of all.
 * @param part 'keys' or 'values', for messages
 * @param variants number of query variants that key segments may name
 */
export function checkSegments(
  where: string,
  part: string,
  segments: readonly RowSegment[],
  heads: number,
  dim: number,
  variants: number,
): number {
  let rows = 0
  for (let i = 0; i < segments.length; i++) {
    const segment = segments[i] as RowSegment
    const { tensors } = segment
    for (let t = 0; t < tensors.length; t++)
      if ((tensors[t] as Tensor).isDisposed) throw disposedError(where, `${part}[${i}]`)
    if (segment.table?.isDisposed || segment.ranges?.isDisposed) throw disposedError(where, `${part}[${i}]`)
    const memory = memoryOf(segment)
    if (memory.heads !== heads || memory.dim !== dim) {
      checkSegment(where, `${part}[${i}]`, segment, pageHeads(where, `${part}[${i}]`, segment, heads), dim)
      memory.heads = heads
      memory.dim = dim
    }
    if (segment.unrotated && part === 'values')
      throw new KernelInputError({
        where,
        given: `${part}[${i}] unrotated`,
        allowed: 'unrotated keys only',
        cure: 'Leave it out: values are never rotated.',
      })
    if ((segment.query ?? 0) >= variants)
      checkInteger(where, `${part}[${i}].query`, segment.query ?? 0, 0, variants - 1)
    rows += segment.rows
  }
  return rows
}

/** How many heads the page of a segment has that `heads` KV heads read. */
function pageHeads(where: string, label: string, { share = 1 }: RowSegment, heads: number): number {
  checkInteger(where, `${label}.share`, share, 1, heads)
  if (heads % share === 0) return heads / share
  throw new KernelInputError({
    where,
    given: `${label}.share = ${share} for ${heads} KV heads`,
    allowed: 'a number that divides the KV heads',
    cure: 'Let as many adjacent heads read each head of the page.',
  })
}

function checkSegment(where: string, label: string, segment: RowSegment, heads: number, dim: number): void {
  const { layout, tensors, from, rows } = segment
  const [first, second] = tensors as readonly [Tensor | undefined, Tensor | undefined]
  let capacity: number
  const { mergedHeads } = segment
  if (mergedHeads !== undefined) {
    checkInteger(where, `${label}.mergedHeads`, mergedHeads, heads, heads)
    if (layout.kind !== 'codebook' || !readsMergedHeads(layout, dim))
      throw new KernelInputError({
        where,
        given: `${label} of ${mergedHeads} merged heads of ${dim} channels with layout ${layout.kind}`,
        allowed: 'codebook codes of which those of a head begin at a whole byte',
        cure: 'Decode the rows, and pass them as exact ones.',
      })
  }
  const codebook = layout.kind === 'codebook' ? codebookTensors(layout, tensors) : undefined
  const named = Object.values(codebook ?? {}).filter((tensor) => tensor !== undefined)
  if (layout.kind === 'codebook' && codebook && first && named.length === tensors.length) {
    const { table, ranges } = segment
    const page = { ...codebook, codes: first, table, ranges }
    const one = mergedHeads !== undefined
    capacity = checkCodebookPage(where, layout, page, one ? 1 : heads, one ? heads * dim : dim)
  } else if (layout.kind === 'dense' && first && !second)
    capacity = checkRowPage(where, layout.store, first, heads, dim)
  else if (layout.kind === 'affine' && first && second) {
    capacity = checkAffinePage(where, layout, first, second, heads, dim)
    if (layout.along === 'tokens' && from % layout.group !== 0) {
      throw new KernelInputError({
        where,
        given: `${label} from row ${from} in groups of ${layout.group} tokens`,
        allowed: 'views that start at a whole group',
        cure: 'Start the view at a multiple of the group size.',
      })
    }
  } else {
    throw new KernelInputError({
      where,
      given: `${label} of ${tensors.length} tensors with layout ${layout.kind}`,
      allowed:
        '[rows] for dense, [words, metadata] for affine, [codes, metadata?, maps?, outliers?, places?] for codebook',
      cure: 'Pass the tensors of one page.',
    })
  }
  checkInteger(where, `${label}.from`, from, 0, Math.max(0, capacity - 1))
  checkInteger(where, `${label}.rows`, rows, 1, capacity - from)
  checkInteger(where, `${label}.query`, segment.query ?? 0, 0)
}

function disposedError(where: string, label: string): KernelInputError {
  return new KernelInputError({
    where,
    given: `${label} with a disposed tensor`,
    allowed: 'pages that are alive',
    cure: 'Drop segments of disposed pages from the list.',
  })
}
