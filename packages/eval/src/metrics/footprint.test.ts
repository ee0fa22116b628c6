import type { KVCache, LayerCensus } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { fakeShape } from '../testing/fake-model'
import { footprintOf } from './footprint'

/** A cache that says what it holds. */
const holding = (
  census: (layer: number) => LayerCensus,
  o: { total?: number; perModel?: number; source?: (layer: number) => number } = {},
): KVCache =>
  ({
    model: fakeShape,
    tokensSeen: 100,
    sourceLayer: o.source ?? ((layer: number) => layer),
    census,
    bytes: () => ({ total: o.total ?? 0, perModel: o.perModel ?? 0 }),
  }) as unknown as KVCache

const rows = (exact: number, sealed: number, sealedBitsPerValue = 16, dead = 0): LayerCensus => ({
  keys: { exact, sealed, sealedBitsPerValue },
  values: { exact, sealed, sealedBitsPerValue },
  dead,
  liveBytes: 0,
  pageBytes: 0,
})

describe('theoretical bits', () => {
  it('count exact rows at 16 bits and sealed rows at what the cache states', () => {
    expect(footprintOf(holding(() => rows(20, 80, 3))).theoreticalBits).toBeCloseTo(0.2 * 16 + 0.8 * 3, 12)
  })
  it('count nothing for layers that read another one, and what attention sees there', () => {
    const census = (layer: number) => (layer === 0 ? rows(50, 50, 2) : rows(0, 0))
    const shared = footprintOf(holding(census, { source: () => 0 }))
    expect(shared.theoreticalBits).toBeCloseTo((0.5 * 16 + 0.5 * 2) / 2, 12)
    expect(shared.keptFraction).toBe(1)
  })
  it('are over the values of the original model, when a model stage made them fewer', () => {
    const wide = { ...fakeShape, keyDim: 2 * fakeShape.keyDim, valueDim: 2 * fakeShape.valueDim }
    expect(
      footprintOf(
        holding(() => rows(100, 0)),
        wide,
      ).theoreticalBits,
    ).toBeCloseTo(8, 12)
  })
})

describe('resident bits', () => {
  it('leave tables of the model out, and stand over all tokens or over those that are left', () => {
    const values = 100 * fakeShape.layers * fakeShape.kvHeads * (fakeShape.keyDim + fakeShape.valueDim)
    const { residentBits, liveBits, keptFraction } = footprintOf(
      holding(() => rows(30, 0, 16, 5), { total: values / 4 + 999, perModel: 999 }),
    )
    expect(residentBits).toBeCloseTo(2, 12)
    expect(keptFraction).toBeCloseTo(0.25, 12)
    expect(liveBits).toBeCloseTo(8, 12)
  })
})
