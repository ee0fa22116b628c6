import { testCompressor } from '@kvloom/conformance'
import { OptionError } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { none } from './none'

for (const store of ['f16', 'f32'] as const)
  testCompressor({ describe, it, expect }, { name: `none, ${store}`, make: () => none({ store }) })

describe('none', () => {
  it('refuses other stores', () => {
    expect(() => none({ store: 'f64' as 'f32' })).toThrow(OptionError)
  })
})
