/**
 * Ridge regression over streamed batches, in float64: the predictors of AQUA-KV (arXiv 2501.19392, section 3.1 and its published
 * code, Apache-2.0) and any other linear map. Differs from that code in summing and solving in float64, by Cholesky's method
 * instead of a float32 pseudo-inverse.
 */
import { solveSymmetric } from './cholesky'
import { symmetricEigen } from './eigen'
import { MathError, requireInteger } from './errors'
import { checkMatrix, firstColumns, type Matrix, type MatrixLike, matrix, multiply, transpose } from './matrix'

export interface RidgeOptions {
  /** Fit a constant too, damped like the weights. Default true. */
  readonly bias?: boolean
  /** Least squares over maps of at most this rank (reduced-rank regression, Izenman 1975). Default: full. */
  readonly rank?: number
}

/** y = x · weights + bias. */
export interface LinearMap {
  /** `[inputs, outputs]` */
  readonly weights: Matrix
  /** `[outputs]`, zeros without bias. */
  readonly bias: Float64Array
  /** With `rank`: weights = down `[inputs, rank]` · up `[rank, outputs]`. */
  readonly factors?: { readonly down: Matrix; readonly up: Matrix }
}

/** Rows of a batch that are summed together; fixes the order of sums. */
const BLOCK = 256

/** Gathers XᵀX and XᵀY of `[X, 1]`, so that memory does not depend on the number of rows. */
export class RidgeAccumulator {
  /** Rows seen. */
  rows = 0
  /** `[inputs + 1, inputs + 1]`, lower triangle; the last row belongs to the constant. */
  readonly #gram: Matrix
  /** `[inputs + 1, outputs]` */
  readonly #cross: Matrix

  /** @throws MathError unless both are at least 1 */
  constructor(
    readonly inputs: number,
    readonly outputs: number,
  ) {
    requireInteger('RidgeAccumulator', 'inputs', inputs, 1)
    requireInteger('RidgeAccumulator', 'outputs', outputs, 1)
    this.#gram = matrix(inputs + 1, inputs + 1)
    this.#cross = matrix(inputs + 1, outputs)
  }

  /**
   * Adds a batch: `x` `[n, inputs]`, `y` `[n, outputs]`. Nothing of it is kept.
   *
   * @throws MathError when the shapes do not agree or a number is not finite; then nothing was added
   */
  add(x: MatrixLike, y: MatrixLike): this {
    if (x.columns !== this.inputs || y.columns !== this.outputs || x.rows !== y.rows) {
      throw new MathError(
        'RidgeAccumulator.add',
        `x [${x.rows}, ${x.columns}] and y [${y.rows}, ${y.columns}]`,
        `[n, ${this.inputs}] and [n, ${this.outputs}]`,
        'Pass one row per token in both.',
      )
    }
    checkMatrix('RidgeAccumulator.add', 'x', x)
    checkMatrix('RidgeAccumulator.add', 'y', y)
    for (let from = 0; from < x.rows; from += BLOCK) {
      const count = Math.min(BLOCK, x.rows - from)
      // Columns made contiguous: [inputs + 1, count] and [outputs, count].
      const inputs = columnsOf(x, from, count, true)
      addProducts(this.#gram, inputs, inputs, count, true)
      addProducts(this.#cross, inputs, columnsOf(y, from, count, false), count, false)
    }
    this.rows += x.rows
    return this
  }

  /**
   * The map that minimises ‖[X, 1] W - Y‖² + λ ‖W‖², λ = damping · mean |diag XᵀX|, over the rows seen so far.
   *
   * @param damping relative, at least 0. AQUA-KV uses 1e-3
   * @throws MathError without rows, with a negative damping, or when the inputs are linearly dependent and damping is 0
   */
  solve(damping: number, options: RidgeOptions = {}): LinearMap {
    const { bias = true, rank } = options
    if (!(damping >= 0 && damping < Number.POSITIVE_INFINITY)) {
      throw new MathError(
        'RidgeAccumulator.solve',
        `damping ${damping}`,
        'a number of at least 0',
        'AQUA-KV uses 1e-3.',
      )
    }
    if (this.rows === 0) {
      throw new MathError('RidgeAccumulator.solve', 'no rows', 'at least one row', 'Call add(x, y) before.')
    }
    if (rank !== undefined) {
      requireInteger('RidgeAccumulator.solve', 'rank', rank, 1, Math.min(this.inputs, this.outputs))
    }
    const gram = this.#damped(damping, bias)
    const cross = matrix(gram.rows, this.outputs, this.#cross.data.subarray(0, gram.rows * this.outputs))
    const solved = solveSymmetric(gram, cross)
    const size = this.inputs * this.outputs
    const map: LinearMap = {
      weights: matrix(this.inputs, this.outputs, solved.data.subarray(0, size)),
      bias: bias ? solved.data.slice(size) : new Float64Array(this.outputs),
    }
    return rank === undefined ? map : reduceRank(map, gram, rank, bias)
  }

  /** XᵀX + λ I, both triangles, with or without the constant's row. */
  #damped(damping: number, bias: boolean): Matrix {
    const n = this.inputs + (bias ? 1 : 0)
    const all = this.inputs + 1
    const out = matrix(n, n)
    let trace = 0
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        const value = this.#gram.data[i * all + j] as number
        out.data[i * n + j] = value
        out.data[j * n + i] = value
      }
      trace += Math.abs(this.#gram.data[i * all + i] as number)
    }
    for (let i = 0; i < n; i++) out.data[i * n + i] = (out.data[i * n + i] as number) + (damping * trace) / n
    return out
  }
}

/** `x` `[n, inputs]` through the map: `[n, outputs]`. @throws MathError when the sizes do not agree */
export function applyLinear(map: LinearMap, x: MatrixLike): Matrix {
  const out = multiply(x, map.weights)
  for (let i = 0; i < out.data.length; i++) {
    out.data[i] = (out.data[i] as number) + (map.bias[i % out.columns] as number)
  }
  return out
}

/**
 * The map of rank r that loses least of the (damped) fit: the loss beyond the full solution W is tr (W - W_r)ᵀ G (W - W_r), with G
 * the gram matrix after the constant is minimised out, so W_r = W V Vᵀ with V the leading eigenvectors of Wᵀ G W.
 */
function reduceRank(map: LinearMap, gram: Matrix, rank: number, bias: boolean): LinearMap {
  const { rows: inputs, columns: outputs } = map.weights
  const n = gram.rows
  const towardsConstant = Float64Array.from({ length: inputs }, (_, i) =>
    bias ? (gram.data[i * n + inputs] as number) / (gram.data[inputs * n + inputs] as number) : 0,
  )
  const centred = matrix(inputs, inputs)
  for (let i = 0; i < inputs; i++) {
    const ofConstant = bias ? (gram.data[i * n + inputs] as number) : 0
    for (let j = 0; j < inputs; j++) {
      centred.data[i * inputs + j] = (gram.data[i * n + j] as number) - ofConstant * (towardsConstant[j] as number)
    }
  }
  const { vectors } = symmetricEigen(multiply(transpose(map.weights), multiply(centred, map.weights)))
  const kept = firstColumns(vectors, rank)
  const down = multiply(map.weights, kept)
  const up = transpose(kept)
  const weights = multiply(down, up)
  const shifted = map.bias.slice()
  for (let i = 0; i < inputs; i++) {
    for (let j = 0; j < outputs; j++) {
      const lost = (map.weights.data[i * outputs + j] as number) - (weights.data[i * outputs + j] as number)
      shifted[j] = (shifted[j] as number) + (towardsConstant[i] as number) * lost
    }
  }
  return { weights, bias: shifted, factors: { down, up } }
}

/** Rows `from` … of `x` as columns `[columns (+ 1), count]`, with a last row of ones on demand. */
function columnsOf(x: MatrixLike, from: number, count: number, ones: boolean): Float64Array {
  const out = new Float64Array((x.columns + (ones ? 1 : 0)) * count)
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < x.columns; j++) out[j * count + i] = x.data[(from + i) * x.columns + j] as number
  }
  if (ones) out.fill(1, x.columns * count)
  return out
}

/** to += a bᵀ for a `[rows, count]`, b `[columns, count]`; only the lower triangle on demand. */
function addProducts(to: Matrix, a: Float64Array, b: Float64Array, count: number, lowerOnly: boolean): void {
  for (let i = 0; i < to.rows; i++) {
    const end = lowerOnly ? i + 1 : to.columns
    for (let j = 0; j < end; j++) {
      let sum = 0
      let q = j * count
      for (let p = i * count; p < (i + 1) * count; p++) sum += (a[p] as number) * (b[q++] as number)
      const at = i * to.columns + j
      to.data[at] = (to.data[at] as number) + sum
    }
  }
}
