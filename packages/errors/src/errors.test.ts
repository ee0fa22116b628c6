import { describe, expect, it, vi } from 'vitest'
import { KvloomError, nearestName } from './index'

class BreadError extends KvloomError {
  constructor() {
    super('BREAD', 'The bread is 3 days old; allowed: at most 2. Bake another.')
  }
}

describe('KvloomError', () => {
  it('knows its own and what is derived from it', () => {
    const error = new BreadError()
    expect(error).toBeInstanceOf(KvloomError)
    expect(KvloomError.isInstance(error)).toBe(true)
    expect([error.name, error.code, error.message]).toEqual([
      'BreadError',
      'BREAD',
      'The bread is 3 days old; allowed: at most 2. Bake another.',
    ])
  })

  it('knows an error of another copy of the package', async () => {
    vi.resetModules()
    const other = (await import('./index')).KvloomError
    expect(other).not.toBe(KvloomError)
    const error = new other('BREAD', 'stale')
    expect(error).not.toBeInstanceOf(KvloomError)
    expect(KvloomError.isInstance(error)).toBe(true)
  })

  it.each([
    new Error('BREAD'),
    { code: 'BREAD', message: 'x' },
    { [Symbol.for('kvloom.error')]: true },
    null,
    undefined,
    'x',
  ])('does not take %s for one', (other) => expect(KvloomError.isInstance(other)).toBe(false))

  it('keeps the cause', () => {
    const cause = new Error('deeper')
    expect(new KvloomError('X', 'y', { cause }).cause).toBe(cause)
  })
})

describe('nearestName', () => {
  it('finds the name with the fewest wrong letters', () => {
    expect(nearestName('bitz', ['keep', 'bits'])).toBe('bits')
    expect(nearestName('Bits', ['keep', 'bits'])).toBe('bits')
  })
  it('is silent when nothing is near', () => {
    expect(nearestName('colour', ['keep', 'bits'])).toBeNull()
    expect(nearestName('x', [])).toBeNull()
  })
})
