import { testCompressor } from '@kvloom/conformance'
import { OptionError, type Site, stagesOn, upload } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { setBackend, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { snapkv } from './snapkv'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'snapkv', make: () => snapkv({ keep: 0.4, window: 12 }) })

const site: Site = {
  hold: upload,
  layer: 0,
  part: 'keys',
  model: {
    name: 'test',
    layers: 1,
    queryHeads: 2,
    kvHeads: 1,
    keyDim: 2,
    valueDim: 2,
    contextLength: 100,
    rope: null,
    attentionScale: 1,
    fingerprint: 'test',
  },
  firstHead: 0,
  heads: 1,
  dim: 2,
}
const scorer = (options: Parameters<typeof snapkv>[0]) => {
  const [stage] = stagesOn(snapkv(options), 'score', 0)
  if (!stage) throw new Error('no scorer')
  return stage.bind(site)
}

const END = { phase: 'promptEnd', tokensSeen: 6 } as const

describe('snapkv', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('pools over neighbours, zeros beyond the ends included, averages heads and leaves the window to its promise', async () => {
    const attention = tensor2d([
      [0.3, 0.6, 0, 0.9, 1, 1],
      [0.9, 0, 0.6, 0.3, 1, 1],
    ])
    const scores = scorer({ window: 2, kernel: 3 }).score({ attention }, {}, END)
    if ('scores' in scores) throw new Error('no columns are declared')
    // Per token (0.6, 0.3, 0.3, 0.6) over two heads and two queries: 0.3, 0.15, 0.15, 0.3.
    const expected = [0.45 / 3, 0.6 / 3, 0.6 / 3, 0.45 / 3, 0, 0]
    const got = await scores.data()
    for (const [i, score] of expected.entries()) expect(got[i]).toBeCloseTo(score, 6)
  })

  it('promises its window and counts the rest', () => {
    expect(scorer({ window: 64, keep: 0.5 }).protect).toEqual({ last: 64 })
    expect(scorer({ window: 64, keep: 0.5 }).count(200, 200)).toBe(100)
  })

  it('refuses options out of range', () => {
    expect(() => snapkv({ kernel: 4 })).toThrow(OptionError)
    expect(() => snapkv({ window: 0 })).toThrow(OptionError)
    expect(() => snapkv({ keep: 1.5 })).toThrow(OptionError)
  })
})
