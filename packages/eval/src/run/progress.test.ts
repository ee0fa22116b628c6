import { describe, expect, it, vi } from 'vitest'
import { type Progress, ProgressMeter } from './progress'

describe('progress', () => {
  const meter = (seen: Progress[]) =>
    new ProgressMeter({
      tokensPerRow: 100,
      runs: 2,
      rows: 3,
      timingTokens: 200,
      report: (progress) => seen.push(progress),
    })

  it('counts what runs and what is timed, and never goes back', () => {
    const seen: Progress[] = []
    const m = meter(seen)
    m.start('a', 0)
    m.at(50)
    m.at(20)
    m.finish()
    m.start('c', 2)
    m.finish()
    m.startTiming(2)
    m.timing(100)
    m.timing(900)
    m.end()
    expect(seen.map((p) => p.fraction)).toEqual([0, 0.125, 0.125, 0.25, 0.25, 0.5, 0.75, 1, 1])
    expect(seen.map((p) => p.index)).toEqual([0, 0, 0, 0, 2, 2, 2, 2, 2])
    expect(seen.at(-1)).toMatchObject({ name: 'times of 2 rows, in turns', count: 3, secondsLeft: 0 })
  })

  it('takes the pace of tokens from the time that tokens took, without calibrations between them', () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    try {
      const seen: Progress[] = []
      const m = meter(seen)
      m.start('a', 0)
      vi.advanceTimersByTime(10_000)
      m.finish()
      m.start('b', 1)
      m.busy({ activity: 'calibrating', secondsLeft: 500 })
      vi.advanceTimersByTime(500_000)
      m.busy({ activity: 'calibrating', secondsLeft: 0 })
      vi.advanceTimersByTime(1_000)
      m.at(0)
      expect(seen.at(-1)?.secondsLeft).toBeCloseTo(30, 6)
    } finally {
      vi.useRealTimers()
    }
  })
})
