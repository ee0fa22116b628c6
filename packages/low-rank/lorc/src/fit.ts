/** What LoRC learns of a model: a basis per layer and part, from its weights or, where asked, from the rows they give. */
import {
  type Asked,
  type CalibrationRun,
  type Foreseen,
  type HostTensor,
  type LayerSamples,
  type Learned,
  ModelMismatch,
  type OptionsOf,
  type Part,
  type Site,
} from '@kvloom/core'
import { type Matrix, matrix, multiply, svd, symmetricEigen, transpose } from '@kvloom/math'
import type { lorcOptions } from './options'
import { type LogConditions, nearestRank, progressiveRanks, type RankGrid, rangeOfMean } from './ranks'

type Options = OptionsOf<typeof lorcOptions>
const PARTS: readonly Part[] = ['keys', 'values']
const PROJECTION = { keys: 'key', values: 'value' } as const
const RANK_OPTION = { keys: 'keyRank', values: 'valueRank' } as const

/** Smaller singular values than this part of the largest are rounding errors of a float32 weight and would swamp the sums. */
const SMALLEST_SINGULAR_VALUE = 2 ** -23

/** The directions of one layer, best first. */
interface Directions {
  /** `[heads · dim, all]`, orthonormal columns. */
  readonly vectors: Matrix
  /** Falling. */
  readonly values: Float64Array
}

/**
 * Per layer: `basis` `[1, rank, heads · dim]`, `singularValues` (all of them), and `bias` `[heads, 1, dim]` where the model has one and
 * no norm after it.
 * @throws ModelMismatch when a rank is beyond that of the rows
 */
export async function fitWeights(
  run: CalibrationRun,
  part: Part,
  options: Options,
  { channels }: Asked,
): Promise<Learned> {
  const { model } = run
  const [heads, dim] = [model.kvHeads, part === 'keys' ? model.keyDim : model.valueDim]
  const logConditions: Record<Part, number[]> = { keys: [], values: [] }
  const layers: Directions[] = []
  const tensors: Record<string, HostTensor> = {}
  const names = new Set(run.weights.names())
  for (let layer = 0; layer < model.layers; layer++) {
    const normed = part === 'keys' && names.has(`layers.${layer}.attention.keyNorm`)
    // Ranks are shared out by the conditions of both parts, whichever is compressed.
    for (const each of options.allocation === 'progressive' ? PARTS : [part]) {
      const { u: vectors, values } = svd(await weightOf(run, layer, each))
      logConditions[each].push(logCondition(values))
      if (each === part) layers.push(normed ? wholeSpace({ vectors, values }, heads) : { vectors, values })
    }
    // A norm after the bias scales it with its token: there is no constant to take off.
    const bias = normed ? null : await biasOf(run, layer, part)
    if (bias) tensors[`${layer}.${part}.bias`] = { shape: [heads, 1, dim], values: bias }
    run.progress?.({ layer, layers: model.layers, stage: 'lorc', part })
  }
  const grid = { multipleOf: channels, full: layers[0]?.vectors.columns ?? 0 }
  const ranks = ranksOf(options, part, grid, logConditions)
  layers.forEach(({ vectors, values }, layer) => {
    const rank = ranks[layer] ?? 0
    const found = learnedOf({ vectors, values }, rank)
    for (const [name, tensor] of Object.entries(found)) tensors[`${layer}.${part}.${name}`] = tensor
  })
  return { json: { ranks: [...ranks], logConditions: logConditions[part] }, tensors }
}

/**
 * A norm scales every head of a row by a number of its own, which takes the row out of the space that the weight reaches where that
 * is smaller than heads · dim. The rest of the space comes after it, best first by what heads reach there one by one:
 * with P onto the rest, the eigenvectors of P (I + Σ_h W_h W_hᵀ / trace) P whose eigenvalues are not 0.
 */
function wholeSpace({ vectors, values }: Directions, heads: number): Directions {
  const { rows: width, columns: reached } = vectors
  if (reached === width) return { vectors, values }
  const dim = width / heads
  const trace = values.reduce((sum, s) => sum + s * s, 0) || 1
  const scaled = matrix(width, reached) // U S, so that W Wᵀ is its product with itself
  vectors.data.forEach((u, at) => {
    scaled.data[at] = u * (values[at % reached] ?? 0)
  })
  const both = multiply(scaled, transpose(scaled)) // W Wᵀ
  const apart = matrix(width, width)
  for (let i = 0; i < width; i++)
    for (let j = 0; j < width; j++)
      if (Math.floor(i / dim) === Math.floor(j / dim))
        apart.data[i * width + j] = (both.data[i * width + j] ?? 0) / trace + (i === j ? 1 : 0)
  const onto = multiply(vectors, transpose(vectors))
  onto.data.forEach((u, at) => {
    onto.data[at] = (at % (width + 1) === 0 ? 1 : 0) - u
  })
  const rest = symmetricEigen(multiply(multiply(onto, apart), onto)).vectors
  const all = matrix(width, width)
  all.data.forEach((_, at) => {
    const [row, column] = [Math.floor(at / width), at % width]
    const from = column < reached ? vectors.data[row * reached + column] : rest.data[row * width + column - reached]
    all.data[at] = from ?? 0
  })
  return { vectors: all, values: Float64Array.from({ length: width }, (_, i) => values[i] ?? 0) }
}

/**
 * Of one layer and part, from its rows: `basis` and `singularValues` as above. Its directions are the eigenvectors of the uncentred
 * covariance of the rows, which of all bases of a rank lose least of them.
 * @throws ModelMismatch when the rank is beyond heads · dim
 */
export async function fitOutputs(
  { heads, dim, part, target }: LayerSamples,
  options: Options,
  { channels }: Asked,
): Promise<Learned> {
  const width = heads * dim
  const covariance = matrix(width, width)
  for (const sequence of target) {
    const merged = mergedRows(sequence)
    const product = multiply(transpose(merged), merged)
    product.data.forEach((x, at) => {
      covariance.data[at] = (covariance.data[at] ?? 0) + x
    })
  }
  const { values: energies, vectors } = symmetricEigen(covariance)
  const rank = nearestRank(
    meanRank(options, part, width),
    checkedGrid(options, part, { multipleOf: channels, full: width }),
  )
  const values = energies.map((energy) => Math.sqrt(Math.max(0, energy)))
  return { json: { rank }, tensors: learnedOf({ vectors, values }, rank) }
}

/** `[heads, tokens, dim]` as `[tokens, heads · dim]`. */
function mergedRows({ shape: [heads = 0, tokens = 0, dim = 0], values }: HostTensor): Matrix {
  const merged = matrix(tokens, heads * dim)
  for (let at = 0; at < values.length; at++) {
    const [head, token] = [Math.floor(at / (tokens * dim)), Math.floor(at / dim) % tokens]
    merged.data[(token * heads + head) * dim + (at % dim)] = values[at] ?? 0
  }
  return merged
}

function learnedOf({ vectors, values }: Directions, rank: number): Readonly<Record<string, HostTensor>> {
  return {
    basis: { shape: [1, rank, vectors.rows], values: leading(vectors, rank) },
    singularValues: { shape: [values.length], values: Float32Array.from(values) },
  }
}

/** The latents of one part, before it is fitted: of about the mean rank. @throws ModelMismatch when no rank is what is asked */
export function foresee({ heads, dim, part }: Site, options: Options, { channels }: Asked): Foreseen {
  const grid = checkedGrid(options, part, { multipleOf: channels, full: heads * dim })
  return { main: { heads: 1, dim: nearestRank(meanRank(options, part, grid.full), grid) } }
}

/** The rank of every layer, of the grid. */
function ranksOf(options: Options, part: Part, asked: RankGrid, conditions: LogConditions): Int32Array {
  const { allocation, minRank } = options
  const grid = checkedGrid(options, part, asked)
  const mean = meanRank(options, part, grid.full)
  const max = options.maxRank ?? grid.full
  if (allocation === 'uniform') return new Int32Array(conditions[part].length).fill(nearestRank(mean, grid))
  return progressiveRanks(
    conditions,
    minRank === null ? rangeOfMean(conditions, mean, max) : { max, min: minRank },
    grid,
  ).ranks
}

/** The rank that the options ask for on average, where rows have rank `full`. */
const meanRank = (options: Options, part: Part, full: number): number =>
  options[RANK_OPTION[part]] ?? options.rank ?? Math.ceil(full / 2)

/** The grid itself. @throws ModelMismatch when it ends below a rank that is asked for */
function checkedGrid(options: Options, part: Part, grid: RankGrid): RankGrid {
  const { multipleOf, full } = grid
  const largest = Math.max(options.minRank ?? 0, meanRank(options, part, full), options.maxRank ?? 0)
  if (largest > full)
    throw new ModelMismatch(
      'lorc',
      `a rank of ${largest} is asked of its ${part}, whose rows have rank ${full} at most.`,
      `Choose at most ${full}, by ${RANK_OPTION[part]} for this part alone.`,
    )
  if (multipleOf > full)
    throw new ModelMismatch(
      'lorc',
      `what stands behind it takes multiples of ${multipleOf} channels of ${part}, whose rows have rank ${full} at most.`,
      { kind: 'advice', text: 'give the quantizer smaller groups (kivi: group)' },
    )
  return grid
}

/** log(largest / smallest singular value). */
function logCondition(values: Float64Array): number {
  const largest = values[0] ?? 0
  const smallest = Math.max(values.at(-1) ?? 0, SMALLEST_SINGULAR_VALUE * largest)
  return largest > 0 ? Math.log(largest / smallest) : 0
}

/** The first `rank` columns as rows. */
function leading({ rows, columns, data }: Matrix, rank: number): Float32Array {
  return Float32Array.from({ length: rank * rows }, (_, at) => data[(at % rows) * columns + Math.floor(at / rows)] ?? 0)
}

/** `[heads · dim, hidden]`. */
async function weightOf(run: CalibrationRun, layer: number, part: Part): Promise<Matrix> {
  const weight = await run.weights.get(`layers.${layer}.attention.${PROJECTION[part]}`)
  const [rows = 0, columns = 0] = weight.shape
  try {
    return matrix(rows, columns, await weight.data())
  } finally {
    weight.dispose()
  }
}

/** `[heads · dim]`, where the model has one. */
async function biasOf(run: CalibrationRun, layer: number, part: Part): Promise<Float32Array | null> {
  const name = `layers.${layer}.attention.${PROJECTION[part]}.bias`
  if (!run.weights.names().includes(name)) return null
  const bias = await run.weights.get(name)
  try {
    return Float32Array.from(await bias.data())
  } finally {
    bias.dispose()
  }
}
