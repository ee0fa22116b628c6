/**
 * Lloyd's k-means of all channel groups of a layer at once, every row of a group with its own weight: the nearest centroid is
 * the plain nearest, the new centroid the weighted mean of its members. The kernel that encodes at run time finds the nearest.
 */
import { type CodebookLayout, codebookBits, codebookEncode } from '@kvloom/kernels'
import { dispose, type Tensor, tensor } from '@tensorflow/tfjs-core'

/** What codebooks of one layer and part are fitted on. */
export interface Samples {
  readonly heads: number
  readonly rows: number
  readonly dim: number
  /** `[heads, rows, dim]` */
  readonly values: Float32Array
  /** The same by groups of channels, those of a head together: `heads · dim / vector` of them. */
  readonly groups: readonly Group[]
}
export interface Group {
  /** `[rows, vector]` */
  readonly points: Float32Array
  /** `[rows]`, none negative. */
  readonly weights: Float32Array
}

export interface Codebooks {
  /** `[heads, dim / vector, entries, vector]` */
  readonly table: Float32Array
  /** Per group: the sum of weight · squared distance to the nearest centroid. */
  readonly costs: Float64Array
}

/**
 * The codebooks after `steps` steps from `start`, which is shaped like `table`. A centroid whose members weigh nothing, or that
 * has none, moves to the row that costs most (`reseed`) or stays (`keep`).
 */
export async function lloyd(
  samples: Samples,
  layout: CodebookLayout,
  start: Float32Array,
  { steps, empty }: { readonly steps: number; readonly empty: 'reseed' | 'keep' },
): Promise<Codebooks> {
  const { heads, rows, dim, groups } = samples
  const input = tensor(samples.values, [heads, rows, dim])
  try {
    let table = start
    for (let step = 0; ; step++) {
      const codes = await nearest(input, layout, table, groups.length)
      const size = layout.entries * layout.vector
      const cells = groups.map((group, g): Cells => {
        const centroids = table.subarray(g * size, (g + 1) * size)
        return { ...group, ...layout, centroids, codes: codes.subarray(g * rows, (g + 1) * rows) }
      })
      if (step === steps) return { table, costs: Float64Array.from(cells, total) }
      table = new Float32Array(table.length)
      for (const [g, cell] of cells.entries()) table.set(means(cell, empty), g * size)
    }
  } finally {
    input.dispose()
  }
}

/** A group, its centroids, and the one that every row is nearest to. */
interface Cells extends Group {
  readonly entries: number
  readonly vector: number
  /** `[entries, vector]` */
  readonly centroids: Float32Array
  /** `[rows]` */
  readonly codes: Uint16Array
}

/** The nearest centroid of every row, the lowest index of equals: `[groups, rows]`. */
async function nearest(
  input: Tensor,
  layout: CodebookLayout,
  table: Float32Array,
  groups: number,
): Promise<Uint16Array> {
  const [heads = 0, rows = 0] = input.shape
  const units = groups / heads
  const books = tensor(table, [heads, units, layout.entries, layout.vector])
  const { codes } = codebookEncode(input, layout, books)
  const words = (await codes.data()) as Int32Array
  const bits = codebookBits(layout.entries)
  const line = codes.shape[2] ?? 0
  const mask = 2 ** bits - 1
  const found = new Uint16Array(groups * rows)
  for (let row = 0; row < heads * rows; row++) {
    const to = Math.floor(row / rows) * units * rows + (row % rows)
    for (let unit = 0; unit < units; unit++) {
      const at = row * line + ((unit * bits) >> 5)
      const offset = (unit * bits) & 31
      let code = (words[at] as number) >>> offset
      if (offset + bits > 32) code |= (words[at + 1] as number) << (32 - offset)
      found[to + unit * rows] = code & mask
    }
  }
  dispose([codes, books])
  return found
}

/** Weighted means of the members of each centroid, `[entries, vector]`. */
function means(cells: Cells, empty: 'reseed' | 'keep'): Float32Array {
  const { entries, vector, points, weights, codes, centroids } = cells
  const sums = new Float64Array(entries * vector)
  const mass = new Float64Array(entries)
  for (let row = 0; row < codes.length; row++) {
    const code = codes[row] as number
    const weight = weights[row] as number
    mass[code] = (mass[code] as number) + weight
    for (let k = 0; k < vector; k++)
      sums[code * vector + k] = (sums[code * vector + k] as number) + weight * (points[row * vector + k] as number)
  }
  const moved = Float32Array.from(centroids)
  for (let at = 0; at < moved.length; at++) {
    const weight = mass[Math.floor(at / vector)] as number
    if (weight > 0) moved[at] = (sums[at] as number) / weight
  }
  if (empty === 'reseed' && mass.includes(0)) reseed(cells, mass, moved)
  return moved
}

/** Moves every centroid without mass onto the row that costs most, a different row each, while any row costs something. */
function reseed(cells: Cells, mass: Float64Array, moved: Float32Array): void {
  const { vector, points, codes } = cells
  const costs = Float64Array.from(codes, (_, row) => cost(cells, row))
  for (let code = mass.indexOf(0); code >= 0; code = mass.indexOf(0, code + 1)) {
    let worst = 0
    for (let row = 1; row < costs.length; row++) if ((costs[row] as number) > (costs[worst] as number)) worst = row
    if (!((costs[worst] as number) > 0)) return
    moved.set(points.subarray(worst * vector, (worst + 1) * vector), code * vector)
    costs[worst] = 0
  }
}

function total(cells: Cells): number {
  let sum = 0
  for (let row = 0; row < cells.codes.length; row++) sum += cost(cells, row)
  return sum
}

/** weight · squared distance of one row. */
function cost({ vector, points, weights, codes, centroids }: Cells, row: number): number {
  let sum = 0
  const at = (codes[row] as number) * vector
  for (let k = 0; k < vector; k++) sum += ((points[row * vector + k] as number) - (centroids[at + k] as number)) ** 2
  return sum * (weights[row] as number)
}
