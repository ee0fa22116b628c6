/** Fits the maps of one layer and part: ridge regression on reconstructions, in float64. */
import { CalibrationError, type Fit, type HostTensor, type LayerSamples, ModelMismatch } from '@kvloom/core'
import { floatFromHalf, halfFromFloat } from '@kvloom/kernels'
import { type MatrixLike, matrix, RidgeAccumulator, transpose } from '@kvloom/math'
import { NAME, type Options, sourcesOf } from './options'

/** Ridge regression of the rows on the sources and 1. */
export const fit = (options: Options): Fit => ({
  scope: 'layer',
  sources: (part) => sourcesOf(options, part),
  // Sources may be narrower still; that shows when they are there.
  foresee({ heads, dim }) {
    checkRank(options, Number.POSITIVE_INFINITY, heads * dim)
    return {}
  },
  async run(samples) {
    const ridge = accumulate(samples, options.drop)
    checkRank(options, ridge.inputs, ridge.outputs)
    const { rank } = options
    const { weights, bias, factors } = ridge.solve(options.damping, rank === null ? {} : { rank })
    const store = (m: MatrixLike): HostTensor => stored(samples, options, transpose(m))
    return {
      json: { rows: ridge.rows },
      tensors: {
        ...(factors ? { down: store(factors.down), up: store(factors.up) } : { weight: store(weights) }),
        bias: { shape: [bias.length], values: Float32Array.from(bias) },
      },
    }
  },
})

/** @throws ModelMismatch for a rank of which the two factors are no smaller than the full map */
function checkRank({ rank }: Options, inputs: number, outputs: number): void {
  const most = Math.min(inputs, outputs)
  if (rank !== null && rank >= most)
    throw new ModelMismatch(
      NAME,
      `a map of rank ${rank} ${Number.isFinite(inputs) ? `over ${inputs} inputs and` : 'over'} ${outputs} outputs saves nothing.`,
      `Choose a rank below ${most}, or leave it out for the full map.`,
    )
}

function accumulate({ layer, part, heads, dim, target, sources }: LayerSamples, drop: number): RidgeAccumulator {
  const inputs = sources.map((source) => source[0]?.shape[1] ?? 0)
  const ridge = new RidgeAccumulator(
    inputs.reduce((sum, n) => sum + n, 0),
    heads * dim,
  )
  target.forEach((rows, sequence) => {
    const count = (rows.shape[1] ?? 0) - drop
    if (count <= 0) return
    const x = matrix(count, ridge.inputs)
    let column = 0
    for (const [i, source] of sources.entries()) {
      const [values, width] = [source[sequence]?.values ?? [], inputs[i] ?? 0]
      for (let row = 0; row < count; row++)
        for (let c = 0; c < width; c++)
          x.data[row * ridge.inputs + column + c] = values[(row + drop) * width + c] ?? Number.NaN
      column += width
    }
    ridge.add(x, sideBySide(rows, heads, dim, drop, count))
  })
  if (ridge.rows === 0)
    throw new CalibrationError(
      NAME,
      `no calibration sequence has more than ${drop} tokens (layer ${layer}, ${part}). Give longer text.`,
    )
  return ridge
}

/** Rows `drop ... drop + count` of `[heads, n, dim]` as `[count, heads * dim]`. */
function sideBySide(rows: HostTensor, heads: number, dim: number, drop: number, count: number): MatrixLike {
  const n = rows.shape[1] ?? 0
  const y = matrix(count, heads * dim)
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < count; row++)
      for (let c = 0; c < dim; c++)
        y.data[(row * heads + head) * dim + c] = rows.values[(head * n + drop + row) * dim + c] ?? Number.NaN
  return y
}

/** `[outputs, inputs]` as it will be held: later layers are fitted on what this very map predicts. */
function stored({ layer, part }: LayerSamples, { weights }: Options, m: MatrixLike): HostTensor {
  const values = Float32Array.from(m.data, (v) => (weights === 'f16' ? floatFromHalf(halfFromFloat(v)) : v))
  if (!values.every(Number.isFinite))
    throw new CalibrationError(
      NAME,
      `the ${part} of layer ${layer} need weights beyond ${weights}. Raise damping, or use weights: 'f32'.`,
    )
  return { shape: [m.rows, m.columns], values }
}
