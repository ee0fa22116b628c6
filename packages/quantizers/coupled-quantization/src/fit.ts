/**
 * The codebooks of one layer and part (arXiv 2405.03917, section 3.2): per group of channels, weighted k-means over the calibration tokens,
 * a token's weight being the sum of its squared gradients over the group's channels (the diagonal of the Fisher information).
 */
import { CalibrationError, type HostTensor, type LayerSamples, type Learned, type OptionsOf } from '@kvloom/core'
import type { CodebookLayout } from '@kvloom/kernels'
import { kmeansPlusPlus, seededRandom } from '@kvloom/math'
import { type Codebooks, type Group, lloyd, type Samples } from './lloyd'
import type { coupledQuantizationOptions } from './options'

type Options = OptionsOf<typeof coupledQuantizationOptions>

const NAME = 'coupled-quantization'

/** Rows that k-means++ starts from, at least: all of them cost more time than the codebooks gain. */
const START_ROWS = 4096
/** Further rows per centroid. */
const START_ROWS_PER_ENTRY = 4

/** Fits codebooks `[heads, dim / channels, 2^bits, channels]`. @throws CalibrationError */
export async function fitCodebooks(samples: LayerSamples, layout: CodebookLayout, options: Options): Promise<Learned> {
  const { restarts, iterations, seed } = options
  const rows = samplesOf(samples, layout, options)
  let best: Codebooks | undefined
  for (let restart = 0; restart < restarts; restart++) {
    const start = startOf(rows, layout, seed + restart * rows.groups.length)
    const found = await lloyd(rows, layout, start, { steps: iterations, empty: 'reseed' })
    best = best ? better(best, found) : found
  }
  if (!best) throw new CalibrationError(NAME, 'it was given no start.')
  const shape = [samples.heads, samples.dim / layout.vector, layout.entries, layout.vector]
  return {
    json: { tokens: rows.rows, cost: best.costs.reduce((a, b) => a + b, 0) },
    tensors: { codebook: { shape, values: best.table } },
  }
}

/** The calibration rows, at most `maxSamples`, with their weights. */
function samplesOf(given: LayerSamples, layout: CodebookLayout, options: Options): Samples {
  const { heads, dim, target } = given
  const gradients = options.sensitivity === 'fisher' ? gradientsOf(given) : undefined
  const places = placesOf(target, options)
  const rows = places.length
  if (rows < layout.entries)
    throw new CalibrationError(
      NAME,
      `${rows} calibration tokens for codebooks of ${layout.entries} entries. Give it more text, or fewer bits.`,
    )
  const values = gather(target, places, heads, dim)
  const squares = gradients && gather(gradients, places, heads, dim)
  for (const numbers of squares ? [values, squares] : [values])
    if (!numbers.every(Number.isFinite))
      throw new CalibrationError(NAME, `the ${given.part} of layer ${given.layer} or their gradients are not finite.`)
  const units = dim / layout.vector
  const groups = Array.from({ length: heads * units }, (_, group) =>
    groupOf(
      values,
      squares,
      { rows, dim, head: Math.floor(group / units), from: (group % units) * layout.vector },
      layout,
    ),
  )
  return { heads, rows, dim, values, groups }
}

function gradientsOf({ gradients, target, part, layer }: LayerSamples): readonly HostTensor[] {
  if (!gradients)
    throw new CalibrationError(
      NAME,
      `sensitivity "fisher" weighs rows by gradients of the loss, and there are none for the ${part} of layer ${layer}: ` +
        'the engine offers none. Use sensitivity "none".',
    )
  if (target.some(({ values }, i) => values.length !== gradients[i]?.values.length))
    throw new CalibrationError(NAME, `gradients and ${part} of layer ${layer} differ in shape.`)
  return gradients
}

/** A row of the calibration data. */
interface Place {
  readonly sequence: number
  readonly token: number
}

/** The rows used, in rising order; without the sinks, which stay exact. */
function placesOf(target: readonly HostTensor[], { sinks, maxSamples, seed }: Options): readonly Place[] {
  const all = target.flatMap(({ shape }, sequence) =>
    Array.from({ length: Math.max(0, (shape[1] ?? 0) - sinks) }, (_, i): Place => ({ sequence, token: sinks + i })),
  )
  return all.length <= maxSamples ? all : sampled(all.length, maxSamples, seed).map((i) => all[i] as Place)
}

/** `count` of the numbers below `of`, in rising order. */
const sampled = (of: number, count: number, seed: number): number[] =>
  [...seededRandom(seed).permutation(of).subarray(0, count)].sort((a, b) => a - b)

/** `[heads, places, dim]` from one `[heads, n, dim]` per sequence. */
function gather(from: readonly HostTensor[], places: readonly Place[], heads: number, dim: number): Float32Array {
  const out = new Float32Array(heads * places.length * dim)
  for (let head = 0; head < heads; head++)
    for (const [row, { sequence, token }] of places.entries()) {
      const { values, shape } = from[sequence] as HostTensor
      const at = (head * (shape[1] ?? 0) + token) * dim
      out.set(values.subarray(at, at + dim), (head * places.length + row) * dim)
    }
  return out
}

/** One group of channels; weights have mean 1, and are all 1 where no channel of the group matters to the loss. */
function groupOf(
  values: Float32Array,
  squares: Float32Array | undefined,
  { rows, dim, head, from }: { rows: number; dim: number; head: number; from: number },
  { vector }: CodebookLayout,
): Group {
  const points = new Float32Array(rows * vector)
  const weights = new Float32Array(rows).fill(squares ? 0 : 1)
  let total = 0
  for (let row = 0; row < rows; row++) {
    const at = (head * rows + row) * dim + from
    points.set(values.subarray(at, at + vector), row * vector)
    if (!squares) continue
    let sum = 0
    for (let k = 0; k < vector; k++) sum += squares[at + k] as number
    weights[row] = sum
    total += sum
  }
  if (!squares) return { points, weights }
  return { points, weights: total > 0 ? weights.map((w) => (w * rows) / total) : weights.fill(1) }
}

/** k-means++ in every group, on some of the rows: `[heads, units, entries, vector]`. */
function startOf({ rows, groups }: Samples, { entries, vector }: CodebookLayout, seed: number): Float32Array {
  const count = Math.min(rows, Math.max(START_ROWS, START_ROWS_PER_ENTRY * entries))
  const chosen = sampled(rows, count, seed)
  const start = new Float32Array(groups.length * entries * vector)
  for (const [g, { points, weights }] of groups.entries()) {
    const data = new Float64Array(count * vector)
    for (const [i, row] of chosen.entries()) data.set(points.subarray(row * vector, (row + 1) * vector), i * vector)
    const weight = Float64Array.from(chosen, (row) => weights[row] as number)
    const options = { seed: (seed + g) | 0, trials: 1, ...(weight.some((w) => w > 0) ? { weights: weight } : {}) }
    start.set(kmeansPlusPlus({ rows: count, columns: vector, data }, entries, options).data, g * entries * vector)
  }
  return start
}

/** The cheaper of two codebooks, group by group. */
function better(a: Codebooks, b: Codebooks): Codebooks {
  const table = a.table.slice()
  const size = table.length / a.costs.length
  const costs = a.costs.map((cost, g) => {
    const other = b.costs[g] as number
    if (!(other < cost)) return cost
    table.set(b.table.subarray(g * size, (g + 1) * size), g * size)
    return other
  })
  return { table, costs }
}
