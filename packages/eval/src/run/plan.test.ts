import { describe, expect, it } from 'vitest'
import { protocolE, protocolP, protocolW, runLimited, type Step } from './plan'

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

describe('protocol W', () => {
  it('is the golden run: one prompt of 1,024 tokens, targets from 64', () => {
    const plan = protocolW({ tokens: 1024, scoreFrom: 64 })
    expect(plan.steps).toEqual([
      { start: 0, end: 512, phase: 'prompt' },
      { start: 512, end: 1024, phase: 'promptEnd' },
    ])
    expect(plan.targets).toEqual({ from: 64, to: 1024 })
    expect(plan.rows).toEqual({ from: 63, to: 1023 })
  })
  it('ends the prompt early for methods that choose there, and feeds on behind the targets for the bytes', () => {
    const plan = protocolW({ tokens: 2048, promptTokens: 512, scoreFrom: 513, scoreTo: 1024 })
    expect(plan.steps[0]).toEqual({ start: 0, end: 512, phase: 'promptEnd' })
    expect(plan.steps.slice(1).every((s) => s.phase === 'decode')).toBe(true)
    expect(plan.steps.at(-1)?.end).toBe(2048)
    expect(plan.rows).toEqual({ from: 512, to: 1023 })
  })
  it('refuses targets outside the text', () => {
    expect(() => protocolW({ tokens: 8, scoreFrom: 4, scoreTo: 9 })).toThrow(/scoreTo is 9; allowed: .*5 to 8/)
    expect(() => protocolW({ tokens: 8, scoreFrom: 4, promptTokens: 9 })).toThrow(/promptTokens is 9/)
  })
})

describe('defaults', () => {
  it("are the library's own", () => {
    expect(protocolP({ tokens: 1024 })).toEqual(protocolP({ tokens: 1024, chunk: 128, scoreFrom: 256 }))
    expect(protocolP({ tokens: 2 })).toEqual(protocolP({ tokens: 2, chunk: 2, scoreFrom: 1 }))
    expect(protocolE({ tokens: 960 })).toEqual(protocolE({ tokens: 960, promptTokens: 640, prefillChunk: 512 }))
    expect(protocolE({ tokens: 2 })).toMatchObject({ promptTokens: 1, targets: { from: 1, to: 2 } })
    expect(protocolW({ tokens: 1024 })).toEqual(protocolW({ tokens: 1024, scoreFrom: 256, chunk: 512 }))
    expect(protocolW({ tokens: 2 }).targets).toEqual({ from: 1, to: 2 })
    expect(protocolW({ tokens: 100, scoreTo: 10 }).targets).toEqual({ from: 9, to: 10 })
  })
  it.each([protocolP, protocolE, protocolW])('%o names what is wrong', (protocol) => {
    const from = (given: unknown) => () => protocol(given as { tokens: number })
    expect(from({})).toThrow(/tokens is undefined; allowed: a whole number from 2/)
    expect(from(undefined)).toThrow(/its settings is undefined/)
    expect(from({ tokens: 1 })).toThrow(/tokens is 1/)
    expect(from({ tokens: 64, scorefrom: 3 })).toThrow(/a setting is scorefrom/)
    expect(from({ tokens: 64, chunk: null })).toThrow(/chunk is null/)
    expect(from({ tokens: 64, chunk: 0 })).toThrow(/chunk is 0/)
  })
})

describe('steps longer than a cache takes', () => {
  const pieces = async (steps: readonly Step[], limit: () => number): Promise<Step[]> => {
    const seen: Step[] = []
    await runLimited(steps, limit, async (step) => {
      seen.push(step)
    })
    return seen
  }
  it('are cut, and only the last piece ends the prompt', async () => {
    expect(await pieces([{ start: 0, end: 5, phase: 'promptEnd' }], () => 2)).toEqual([
      { start: 0, end: 2, phase: 'prompt' },
      { start: 2, end: 4, phase: 'prompt' },
      { start: 4, end: 5, phase: 'promptEnd' },
    ])
  })
  it('are run by one token where a cache takes none, so that it says why', async () => {
    const run = runLimited(
      [{ start: 0, end: 3, phase: 'decode' }],
      () => 0,
      async ({ start, end }) => {
        throw new Error(`${end - start} more`)
      },
    )
    await expect(run).rejects.toThrow('1 more')
  })
  it('follow a limit that changes while they run', async () => {
    const limits = [8, 3, 3, 3]
    const steps: Step[] = [
      { start: 0, end: 8, phase: 'prompt' },
      { start: 8, end: 15, phase: 'promptEnd' },
    ]
    expect((await pieces(steps, () => limits.shift() ?? 0)).map((s) => [s.start, s.end, s.phase])).toEqual([
      [0, 8, 'prompt'],
      [8, 11, 'prompt'],
      [11, 14, 'prompt'],
      [14, 15, 'promptEnd'],
    ])
  })
})
