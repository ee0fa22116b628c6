import { describe, expect, it } from 'vitest'
import { limitSteps, protocolE, protocolP } from './plan'

describe('protocol P', () => {
  it('is the golden run: 1,536 targets of 2,048 tokens in chunks of 128', () => {
    const plan = protocolP({ tokens: 2048, chunk: 128, scoreFrom: 512 })
    expect(plan.steps).toHaveLength(16)
    expect(plan.targets).toEqual({ from: 512, to: 2048 })
    expect(plan.rows).toEqual({ from: 511, to: 2047 })
    expect(plan.steps.every((s) => s.phase === 'decode')).toBe(true)
  })
  it('takes single tokens and a last chunk that is shorter', () => {
    expect(protocolP({ tokens: 5, chunk: 1, scoreFrom: 1 }).steps).toHaveLength(5)
    expect(protocolP({ tokens: 5, chunk: 2, scoreFrom: 1 }).steps.at(-1)).toEqual({ start: 4, end: 5, phase: 'decode' })
  })
  it('refuses what it cannot score', () => {
    expect(() => protocolP({ tokens: 8, chunk: 0, scoreFrom: 4 })).toThrow(
      /chunk is 0; allowed: a whole number from 1 to 8/,
    )
    expect(() => protocolP({ tokens: 8, chunk: 4, scoreFrom: 8 })).toThrow(/Leave at least one token/)
  })
})

describe('protocol E', () => {
  it('is the golden run: evict after 1,024, score 512 in one pass', () => {
    const plan = protocolE({ tokens: 1536, promptTokens: 1024 })
    expect(plan.steps).toEqual([
      { start: 0, end: 512, phase: 'prompt' },
      { start: 512, end: 1024, phase: 'promptEnd' },
      { start: 1024, end: 1536, phase: 'decode' },
    ])
    expect(plan.targets).toEqual({ from: 1024, to: 1536 })
    expect(plan.rows).toEqual({ from: 1024, to: 1536 })
  })
})

it('steps are cut to a chunk limit, and only the last piece ends the prompt', () => {
  const steps = limitSteps([{ start: 0, end: 5, phase: 'promptEnd' }], 2)
  expect(steps).toEqual([
    { start: 0, end: 2, phase: 'prompt' },
    { start: 2, end: 4, phase: 'prompt' },
    { start: 4, end: 5, phase: 'promptEnd' },
  ])
})
