import { syntheticModel, testCompressor } from '@kvloom/conformance'
import { type ModelShape, OptionError, siteOf, stagesOn } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels, rope as rotate } from '@kvloom/kernels'
import {
  dispose,
  randomNormal,
  setBackend,
  type Tensor,
  tensor1d,
  tensor2d,
  tensor3d,
  tidy,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { expectedAttention } from './expected-attention'
import { futureQueries } from './future-queries'

type Options = NonNullable<Parameters<typeof expectedAttention>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'expected-attention', make: () => expectedAttention({ keep: 0.4, future: 16 }) })

const rotating = syntheticModel({ queryHeads: 2, kvHeads: 1, keyDim: 4, valueDim: 4 })
const still: ModelShape = { ...rotating, rope: null }

function scorer(options: Options, model: ModelShape) {
  const [stage] = stagesOn(expectedAttention(options), 'score', 0)
  if (!stage) throw new Error('no scorer')
  return stage.bind(siteOf(model, 0, 'keys'))
}

async function scores(options: Options, model: ModelShape, seen: Record<string, Tensor>): Promise<number[]> {
  const result = tidy(() => {
    const tokensSeen = seen['keys']?.shape[1] ?? 0
    const scored = scorer(options, model).score(seen, {}, { phase: 'promptEnd', tokensSeen })
    if ('scores' in scored) throw new Error('no columns are declared')
    return scored
  })
  const values = [...(await result.data())]
  dispose([result, ...Object.values(seen)])
  return values
}

const softmax = (x: readonly number[]): number[] => {
  const weights = x.map(Math.exp)
  const total = weights.reduce((a, b) => a + b, 0)
  return weights.map((w) => w / total)
}

describe('expected-attention', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('is the attention of the mean query when queries do not vary and nothing rotates', async () => {
    const query = [0.5, -1, 2, 0.25]
    const keys = [
      [1, 0, 0, 0],
      [0, 1, 0, 0],
      [0, 0, 1, 0],
    ]
    const got = await scores({ sinks: 0, valueNorm: false }, still, {
      queries: tensor3d([
        [query, query, query],
        [query, query, query],
      ]),
      keys: tensor3d([keys]),
      values: tensor3d([keys]),
    })
    const expected = softmax(query.slice(0, 3).map((q) => q / 2))
    for (const [i, a] of expected.entries()) expect(got[i]).toBeCloseTo(a, 6)
  })

  it('is the mean of exp(q k / sqrt(d)) over Gaussian queries', async () => {
    const n = 4000
    const queries = randomNormal([2, n, 4], 0.3, 0.7, 'float32', 5) as Tensor
    const drawn = await queries.data<'float32'>()
    const rows = Array.from({ length: n }, (_, i) => [Math.sin(i), Math.cos(2 * i), Math.sin(3 * i), i === 1 ? 1 : 0.5])
    const got = await scores({ sinks: 0, valueNorm: false }, still, {
      queries,
      keys: tensor3d([rows]),
      values: tensor3d([rows]),
    })
    const means = [0, 1, 2].map((i) => {
      const perHead = [0, 1].map((head) => {
        let sum = 0
        for (let t = 0; t < n; t++)
          sum += Math.exp((rows[i] ?? []).reduce((dot, k, c) => dot + k * (drawn[(head * n + t) * 4 + c] ?? 0), 0) / 2)
        return sum / n
      })
      return ((perHead[0] ?? 0) + (perHead[1] ?? 0)) / 2
    })
    // Attention differs from the exponentials by each head's own total, which is the same for every token.
    for (const i of [1, 2]) expect((got[i] ?? 0) / (got[0] ?? 1)).toBeCloseTo((means[i] ?? 0) / (means[0] ?? 1), 1)
  })

  it('turns queries back from where they stood to the positions to come', async () => {
    const rope = rotating.rope
    if (!rope) throw new Error('the model rotates')
    const tokens = 3
    const table = (f: (x: number) => number, positions: readonly number[]) =>
      tensor2d(
        positions.flatMap((p) => [...rope.frequencies].map((w) => f(p * w))),
        [positions.length, 2],
      )
    const at = (positions: readonly number[]) => ({ cos: table(Math.cos, positions), sin: table(Math.sin, positions) })
    const plain = tensor3d([Array.from({ length: tokens }, () => [1, 2, 3, 4])])
    const [mean, covariance] = tidy(() => {
      const turned = rotate(plain, at([0, 1, 2]), tensor1d([0, 1, 2], 'int32'))
      const gaussian = futureQueries(turned, rope, { sinks: 0, future: 1, covariance: true })
      return [gaussian.mean, gaussian.covariance ?? gaussian.mean] as [Tensor, Tensor]
    })
    const expected = tidy(() => rotate(tensor3d([[[1, 2, 3, 4]]]), at([3]), tensor1d([0], 'int32')))
    for (const [i, x] of [...(await expected.data())].entries()) expect((await mean.data())[i]).toBeCloseTo(x, 5)
    for (const x of await covariance.data()) expect(x).toBeCloseTo(0, 5)
    dispose([plain, mean, covariance, expected])
  })

  it('multiplies by the length of values and leaves sinks to their promise', async () => {
    const zero = [0, 0, 0, 0]
    const seen = () => ({
      queries: tensor3d([
        [zero, zero, zero],
        [zero, zero, zero],
      ]),
      keys: tensor3d([[zero, zero, zero]]),
      values: tensor3d([
        [
          [1, 0, 0, 0],
          [3, 4, 0, 0],
          [0, 0, 0, 10],
        ],
      ]),
    })
    expect(await scores({ sinks: 1 }, still, seen())).toEqual([0, 2.5, 5])
    expect(await scores({ sinks: 1, epsilon: 0.5 }, still, seen())).toEqual([0, 5, 10])
    expect(await scores({ sinks: 1, valueNorm: false }, still, seen())).toEqual([0, 0.5, 0.5])
  })

  it('promises its sinks and counts the rest', () => {
    expect(scorer({ sinks: 4, keep: 0.5 }, still).protect).toEqual({ first: 4 })
    expect(scorer({ sinks: 4, keep: 0.5 }, still).count(10, 10)).toBe(5)
  })

  it('refuses options out of range', () => {
    expect(() => expectedAttention({ keep: 1.5 })).toThrow(OptionError)
    expect(() => expectedAttention({ future: 0 })).toThrow(OptionError)
    expect(() => expectedAttention({ epsilon: -1 })).toThrow(OptionError)
  })
})
