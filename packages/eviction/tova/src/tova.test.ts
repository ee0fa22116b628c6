import { testCompressor } from '@kvloom/conformance'
import { OptionError } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { tova } from './tova'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'tova, fixed cache', make: () => tova({ cache: 30 }) })
testCompressor(runner, {
  name: 'tova, once',
  make: () => tova({ keep: 0.4 }),
  backends: ['wasm'],
  chunkInvariant: true,
})

describe('tova', () => {
  it('acts after every append with a fixed cache, else once', () => {
    expect(tova({ cache: 64 }).stages[0]?.when).toBe('step')
    expect(tova().stages[0]?.when).toBe('promptEnd')
  })

  it('refuses options out of range, and both forms at once', () => {
    expect(() => tova({ cache: 2.5 })).toThrow(OptionError)
    expect(() => tova({ keep: 0 })).toThrow(OptionError)
    expect(() => tova({ cache: 64, keep: 0.25 })).toThrow(/not both/)
  })
})
