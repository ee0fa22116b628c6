import { testCompressor } from '@kvloom/conformance'
import { OptionError, type PickContext, type Site, stagesOn } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { streamingLlm } from './streaming-llm'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'streaming-llm', make: () => streamingLlm({ recent: 28 }) })
testCompressor(runner, {
  name: 'streaming-llm, original positions',
  make: () => streamingLlm({ sinks: 2, recent: 40, positions: 'original' }),
  backends: ['wasm'],
})
testCompressor(runner, {
  name: 'streaming-llm, once',
  make: () => streamingLlm({ keep: 0.4 }),
  backends: ['wasm'],
  chunkInvariant: true,
})

const now: PickContext = { phase: 'decode', tokensSeen: 0, head: 0, memory: null }
const site = { layer: 0, part: 'keys' } as Site
const pick = (options: Parameters<typeof streamingLlm>[0]) => {
  const [stage] = stagesOn(streamingLlm(options), 'pick', 0)
  if (!stage) throw new Error('no pick')
  return stage.bind(site)
}

describe('streaming-llm', () => {
  it('makes room for what comes: sinks, and of the newest what is left of the window', () => {
    const stage = pick({ sinks: 4, recent: 8 })
    expect(stage.count(11, 1)).toBe(11)
    expect(stage.count(12, 1)).toBe(11)
    expect(stage.count(12, 8)).toBe(4)
    expect(stage.keep(12, 11, null, {}, now)).toEqual([
      { start: 0, end: 4 },
      { start: 5, end: 12 },
    ])
    expect(stage.keep(12, 4, null, {}, now)).toEqual([{ start: 0, end: 4 }])
  })

  it('keeps of 48 tokens the first 4 and the last 8', () => {
    const stage = pick({ keep: 0.25 })
    expect(stage.count(48, 0)).toBe(12)
    expect(stage.keep(48, 12, null, {}, now)).toEqual([
      { start: 0, end: 4 },
      { start: 40, end: 48 },
    ])
    expect(stage.keep(48, 3, null, {}, now)).toEqual([{ start: 0, end: 3 }])
  })

  it('streams without sinks', () => {
    expect(pick({ sinks: 0, recent: 8 }).keep(9, 7, null, {}, now)).toEqual([{ start: 2, end: 9 }])
  })

  it('refuses options out of range, and both forms at once', () => {
    expect(() => streamingLlm({ recent: 0 })).toThrow(OptionError)
    expect(() => streamingLlm({ keep: 1.1 })).toThrow(OptionError)
    expect(() => streamingLlm({ keep: 0.5, recent: 100 })).toThrow(/not both/)
  })
})
