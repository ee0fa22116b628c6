import type { TrainingPhase } from '@kvloom/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  BLOCK_STEPS,
  blockOf,
  learningRateAt,
  placesInBlock,
  planPhases,
  SequenceStream,
  sequencesOfBlock,
} from './schedule'

const alone: TrainingPhase = { name: 'alone', loss: 'layer', weights: [], share: 0.75, learningRate: 2, passes: 3 }
const together: TrainingPhase = { name: 'together', loss: 'next-token', weights: [], share: 0.25, learningRate: 1 }

describe('the schedule', () => {
  it('shares tokens out, and no phase takes sequences of another', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4000 }), fc.integer({ min: 1, max: 5 }), (steps, batch) => {
        const [first, second] = planPhases([alone, together], { tokens: steps * batch * 10, batch, length: 10 })
        expect(first!.steps).toBe(Math.max(1, Math.round(0.75 * steps)))
        expect(second!.steps).toBe(Math.max(1, Math.round(0.25 * steps)))
        const last = blockOf(first!, first!.steps - 1)
        expect(second!.firstSequence).toBe(sequencesOfBlock(first!, last, batch).at(-1)! + 1)
      }),
    )
  })

  it('takes every sequence of a block once a pass, in orders that differ', () => {
    const [phase] = planPhases([alone], { tokens: 4 * 10 * 100, batch: 2, length: 10 })
    const places = (from: number) =>
      Array.from({ length: BLOCK_STEPS }, (_, i) => placesInBlock(phase!, from + i, 2, 7)).flat()
    const passes = [0, 1, 2, 3].map((pass) => places(pass * BLOCK_STEPS))
    for (const pass of passes) expect([...pass].sort((a, b) => a - b)).toEqual(Array.from({ length: 16 }, (_, i) => i))
    expect(new Set(passes.map(String)).size).toBe(4)
    expect(places(0)).toEqual(passes[0])
  })

  it('goes round all sequences, each round in another order', () => {
    const stream = new SequenceStream(10, 3)
    const round = (n: number) => Array.from({ length: 10 }, (_, i) => stream.at(n * 10 + i))
    const rounds = [0, 1, 2].map(round)
    for (const each of rounds) expect([...each].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(new Set(rounds.map(String)).size).toBe(3)
    expect(round(1)).toEqual(rounds[1])
    expect(new SequenceStream(10, 4).at(0) === rounds[0]![0] && new SequenceStream(10, 5).at(0) === rounds[0]![0]).toBe(
      false,
    )
  })

  it('raises the learning rate in a line and lets it fall to nothing', () => {
    const [phase] = planPhases([{ ...alone, share: 1 }], { tokens: 1000, batch: 1, length: 10 })
    const rates = Array.from({ length: 100 }, (_, step) => learningRateAt(phase!, step))
    expect(rates.slice(0, 5)).toEqual([0.4, 0.8, 1.2, 1.6, 2].map((rate) => expect.closeTo(rate, 12)))
    for (let i = 6; i < 100; i++) expect(rates[i]!).toBeLessThan(rates[i - 1]!)
    expect(rates.at(-1)!).toBeLessThan(1e-3)
    expect(learningRateAt({ ...phase!, steps: 1 }, 0)).toBe(2)
  })
})
