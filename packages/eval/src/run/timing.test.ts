import { describe, expect, it } from 'vitest'
import { protocolE, protocolP, protocolW } from './plan'
import { type RowSamples, roundOrder, summarizeTimes, timingPlan, timingTokens } from './timing'
import { groupsOf, type TimingCandidate } from './timing-groups'

describe('what is timed', () => {
  it('is a context filled in eleven pieces, the end of the prompt among them, then decode steps', () => {
    const plan = timingPlan(protocolE({ tokens: 960 }), 16)
    expect(plan?.contextTokens).toBe(640)
    expect(plan?.pieces).toHaveLength(11)
    expect(plan?.pieces.at(-1)).toEqual({ start: 590, end: 640, phase: 'promptEnd' })
    expect(plan?.pieces.slice(0, -1).every((p) => p.phase === 'prompt')).toBe(true)
    expect(timingTokens(plan)).toBe(640 + 2 + 16)
  })
  it('is the whole text under P and W', () => {
    expect(timingPlan(protocolP({ tokens: 600 }), 1)?.pieces.map((p) => p.phase)).toEqual(Array(11).fill('decode'))
    const early = timingPlan(protocolW({ tokens: 44, promptTokens: 10 }), 1)
    expect(early?.pieces.map((p) => [p.end, p.phase])).toEqual([
      [4, 'prompt'],
      [8, 'prompt'],
      [10, 'promptEnd'],
      ...[12, 16, 20, 24, 28, 32, 36, 40, 44].map((end) => [end, 'decode']),
    ])
  })
  it('is no prefill where the protocol feeds single tokens, and nothing without steps', () => {
    expect(timingPlan(protocolP({ tokens: 64, chunk: 1 }), 4)?.prefills).toBe(false)
    expect(timingPlan(protocolE({ tokens: 64 }), 4)?.prefills).toBe(true)
    expect(timingPlan(protocolE({ tokens: 2 }), 4)).toMatchObject({ contextTokens: 1, prefills: false })
    expect(timingPlan(protocolE({ tokens: 64 }), 0)).toBeNull()
    expect(timingTokens(null)).toBe(0)
  })
})

describe('rounds', () => {
  it('give every row every turn, and no row always the same one before it', () => {
    const rounds = Array.from({ length: 10 }, (_, round) => roundOrder(5, round))
    for (const order of rounds) expect([...order].sort()).toEqual([0, 1, 2, 3, 4])
    for (let turn = 0; turn < 5; turn++) expect(new Set(rounds.map((order) => order[turn])).size).toBe(5)
    for (let row = 0; row < 5; row++) {
      const before = rounds.map((order) => order[order.indexOf(row) - 1]).filter((other) => other !== undefined)
      expect(new Set(before).size).toBeGreaterThan(1)
    }
  })
})

const samples = (decode: readonly (number | undefined)[], error: unknown = null): RowSamples => ({
  prefill: [],
  decode,
  cacheShare: 0.5,
  error,
})

describe('times', () => {
  it('are ratios of the same round, so that a machine that slows down changes none', () => {
    const { decode, ratios } = summarizeTimes([samples([2, 4, 40])], [samples([1, 2, 20])])
    expect(decode?.median).toBe(4)
    expect(ratios.decode).toMatchObject({ median: 2, lowerQuartile: 2, upperQuartile: 2, count: 3 })
    expect(ratios.prefill).toBeNull()
  })
  it('leave out rounds that one of the two lacks', () => {
    const { decode, ratios } = summarizeTimes([samples([2, 4])], [samples([1, undefined])])
    expect([decode?.count, ratios.decode?.count]).toEqual([2, 1])
    expect(summarizeTimes([samples([undefined])], [samples([1])]).decode).toBeNull()
  })
  it('of the uncompressed row are those of all groups', () => {
    const base = [samples([1, 1]), samples([3, 3])]
    expect(summarizeTimes(base, base)).toMatchObject({
      decode: { median: 2, count: 4 },
      ratios: { decode: { median: 1 } },
    })
  })
})

describe('groups', () => {
  const row = (bytes: number) => ({ bytes }) as TimingCandidate
  const sizes = (rows: readonly number[], bytes: number) =>
    groupsOf(row(10), rows.map(row), bytes).map((group) => group.length)
  it('hold what fits beside the uncompressed row', () => {
    expect(sizes([5, 5, 5], 100)).toEqual([3])
    expect(sizes([5, 5, 5], 20)).toEqual([2, 1])
    expect(sizes([500, 5], 20)).toEqual([1, 1])
    expect(sizes([], 100)).toEqual([])
  })
})
