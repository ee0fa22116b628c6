import { testCompressor } from '@kvloom/conformance'
import { OptionError, type Site, stagesOn, upload } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { getBackend, setBackend, tensor2d, tensor3d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { attentionLoss } from './attention-loss'
import { l2Norm } from './l2-norm'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'l2-norm', make: () => l2Norm({ keep: 0.4, skipLayers: [0] }) })
testCompressor(runner, {
  name: 'l2-norm at every step',
  make: () => l2Norm({ keep: 0.98, skipLayers: [0], pruneAfter: 40, when: 'step' }),
  backends: ['wasm'],
  chunkInvariant: false,
})

const site = (layer: number): Site => ({
  hold: upload,
  layer,
  part: 'keys',
  model: {
    name: 'test',
    layers: 4,
    queryHeads: 1,
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
})
const scorer = (options: Parameters<typeof l2Norm>[0], layer = 2) => {
  const [stage] = stagesOn(l2Norm(options), 'score', layer)
  if (!stage) throw new Error('no scorer')
  return stage.bind(site(layer))
}

describe('l2-norm', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('prefers the lowest norm', async () => {
    expect(getBackend()).toBe('wasm')
    const scores = scorer({}).score(
      {
        keys: tensor3d([
          [
            [3, 4],
            [0, 0],
            [1, 0],
          ],
        ]),
      },
      {},
      { phase: 'promptEnd', tokensSeen: 3 },
    )
    if ('scores' in scores) throw new Error('no columns are declared')
    expect([...(await scores.data())]).toEqual([-5, -0, -1])
  })

  it('rounds as asked, skips layers and leaves short caches alone', () => {
    expect(scorer({ keep: 0.51 }).count(61, 61)).toBe(32)
    expect(scorer({ keep: 0.51, rounding: 'trunc' }).count(61, 61)).toBe(31)
    expect(scorer({ keep: 0.51 }, 1).count(61, 61)).toBe(61)
    expect(scorer({ keep: 0.5, pruneAfter: 62 }).count(61, 61)).toBe(61)
    expect(scorer({ keep: 0.5, pruneAfter: 61 }).count(61, 61)).toBe(31)
    expect(scorer({ keep: 0.1 }).count(1, 1)).toBe(1)
  })

  it('has no attention loss where norms order tokens as attention does', async () => {
    const attention = tensor2d([[0.1, 0.2, 0.3, 0.4]])
    const agrees = attentionLoss(attention, tensor2d([[3, 2, 1, 9]]))
    const reversed = attentionLoss(attention, tensor2d([[1, 2, 3, 9]]))
    expect((await agrees.data())[0]).toBeCloseTo(0, 6)
    // (0.3 + 0.5 + 0.6) - (0.1 + 0.3 + 0.6)
    expect((await reversed.data())[0]).toBeCloseTo(0.4, 6)
  })

  it('refuses options out of range', () => {
    expect(() => l2Norm({ keep: 0 })).toThrow(OptionError)
    expect(() => l2Norm({ skipLayers: [0.5] })).toThrow(OptionError)
    expect(() => l2Norm({ rounding: 'round' as 'ceil' })).toThrow(OptionError)
  })
})
