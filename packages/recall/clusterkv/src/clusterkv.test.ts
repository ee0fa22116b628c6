import { OptionError } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { clusterkv } from './clusterkv'

describe('clusterkv', () => {
  it('is a method with one name', () => {
    expect(clusterkv.card.name).toBe('clusterkv')
    expect(clusterkv().stages.every(({ kind, id }) => kind === 'recall' && id === 'clusterkv')).toBe(true)
  })

  it('refuses an option it does not have', () => {
    const given: Record<string, unknown> = { unknown: 1 }
    expect(() => clusterkv(given)).toThrow(OptionError)
  })
})
