/** Cases of Expected Attention, which kvpress made: scores, kept tokens, and the Gaussian of the queries to come. */
import {
  compareArrays,
  fromTensor,
  type GoldenCase,
  numberOption,
  type PressAdapter,
  type Rows,
  type TensorResult,
  type Tolerance,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { slice } from '@tensorflow/tfjs-core'
import { expectedAttention } from '../src/expected-attention'
import { futureQueries } from '../src/future-queries'

/** Mean and variances, as the data calls them. */
const NAMES = ['mu', 'cov_diag']

/** The data has no tolerance of its own for the moments: sums of float32 queries, over their own size. */
const MOMENTS: Tolerance = { relFrobenius: 1e-6 }

/** Expected Attention against kvpress. */
export const adapter: PressAdapter = {
  press: {
    name: 'expected_attention',
    make: (golden, keep) =>
      expectedAttention({
        keep,
        future: numberOption(golden, 'n_future_positions', 512),
        sinks: numberOption(golden, 'n_sink', 4),
        covariance: switchOf(golden, 'use_covariance'),
        valueNorm: switchOf(golden, 'use_vnorm'),
        epsilon: numberOption(golden, 'epsilon', 0),
      }),
    more: { names: NAMES, results: momentsOf },
  },
}

const switchOf = (golden: GoldenCase, name: string): boolean => Boolean(golden.options[name] ?? true)

/** The Gaussian: `mu` `[queryHeads, dim]`, `cov_diag` its variances. */
async function momentsOf(golden: GoldenCase, rows: Rows): Promise<TensorResult[]> {
  const names = golden.expects.filter((name) => NAMES.includes(name))
  const { mean, variances } = await withArena(async (arena) => {
    const gaussian = futureQueries(arena.own(toTensor(rows.queries)), rows.rope ?? null, {
      sinks: numberOption(golden, 'n_sink', 4),
      future: numberOption(golden, 'n_future_positions', 512),
      covariance: true,
    })
    const mean = await fromTensor(arena.own(gaussian.mean))
    const [heads = 0, dim = 0] = mean.shape
    const covariance = await fromTensor(arena.own(gaussian.covariance ?? slice(gaussian.mean, [0, 0], [0, 0])))
    const diagonal = new Float32Array(heads * dim)
    for (let at = 0; at < diagonal.length; at++) diagonal[at] = covariance.data[at * dim + (at % dim)] ?? Number.NaN
    return { mean, variances: { shape: mean.shape, data: diagonal } }
  })
  return Promise.all(
    names.map(async (name) =>
      compareArrays(name, name === 'mu' ? mean : variances, await golden.expected(name), MOMENTS),
    ),
  )
}
