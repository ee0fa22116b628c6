import { describe, expect, it } from 'vitest'
import { OptionError } from './errors'
import { flag, fraction, integer, layerList, optional, parseOptions } from './options'

describe('options', () => {
  const schema = { bits: integer({ default: 2, min: 1, max: 8, doc: '' }), keep: fraction({ default: 0.5, doc: '' }) }

  it('fills defaults and freezes', () => {
    const options = parseOptions('m', schema, { bits: 3 })
    expect(options).toEqual({ bits: 3, keep: 0.5 })
    expect(Object.isFrozen(options)).toBe(true)
  })

  it.each([
    [{ bits: 5.5 }, 'option bits is 5.5; allowed: a whole number from 1 to 8'],
    [{ bits: 9 }, 'allowed: a whole number from 1 to 8'],
    [{ keep: 0 }, 'allowed: a number above 0 and at most 1'],
    [{ keep: Number.NaN }, 'option keep is NaN;'],
    [{ bits: Number.NEGATIVE_INFINITY }, 'option bits is -Infinity;'],
    [{ bits: [1, Number.NaN, { a: 10, b: 'x' }] }, 'option bits is [1,NaN,{"a":10,"b":"x"}];'],
    [{ bit: 2 }, 'one of the options bits, keep. Did you mean "bits"?'],
    [{ kep: 0.1 }, 'Did you mean "keep"?'],
    [{ xyzzy: 1 }, 'one of the options bits, keep.'],
    [{ toString: 2 }, 'option toString is 2'],
    [{ constructor: 2 }, 'option constructor is 2'],
    [JSON.parse('{"__proto__":{"bits":3}}'), 'option __proto__ is {"bits":3}'],
    [Object.create({ bits: 3 }), 'option __proto__ is {"bits":3}'],
    [{ bits: null }, 'option bits is null'],
    [{ bits: '2' }, 'option bits is "2"'],
    ['bits=2', 'option options is "bits=2"; allowed: an object of options: bits, keep'],
    [[2], 'option options is [2]'],
    [null, 'option options is null'],
  ])('refuses %j', (given, message) => {
    expect(() => parseOptions('m', schema, given as never)).toThrow(message)
    expect(() => parseOptions('m', schema, given as never)).toThrow(OptionError)
  })

  it('takes undefined as left out, and objects without a prototype', () => {
    expect(parseOptions('m', schema, { bits: undefined } as never).bits).toBe(2)
    expect(parseOptions('m', schema, Object.assign(Object.create(null), { bits: 4 })).bits).toBe(4)
  })

  it('knows options that may be left out: null stands for that, and no number', () => {
    const schema = {
      keyBits: optional(integer({ min: 1, max: 8, doc: '' }), 'as bits'),
      map: optional(layerList({ least: 1, doc: '' }), 'it is searched'),
      keep: optional(fraction({ doc: '' }), 'nothing is dropped'),
    }
    expect(parseOptions('m', schema)).toEqual({ keyBits: null, map: null, keep: null })
    expect(parseOptions('m', schema, { keyBits: null, map: undefined } as never)).toEqual(parseOptions('m', schema))
    expect(parseOptions('m', schema, { keyBits: 4, map: [0], keep: 1 })).toEqual({ keyBits: 4, map: [0], keep: 1 })
    const refused = (given: object) => () => parseOptions('m', schema, given)
    expect(refused({ keyBits: 0 })).toThrow(
      'm: option keyBits is 0; allowed: a whole number from 1 to 8; left out: as bits.',
    )
    expect(refused({ map: [] })).toThrow(
      'option map is []; allowed: a list of 1 or more layer numbers from 0; left out: it is searched.',
    )
    expect(refused({ keep: 0 })).toThrow(OptionError)
  })

  it('knows flags', () => {
    const schema = { keepReconstruction: flag({ default: true, doc: '' }) }
    expect(parseOptions('m', schema)).toEqual({ keepReconstruction: true })
    expect(parseOptions('m', schema, { keepReconstruction: false }).keepReconstruction).toBe(false)
    for (const given of ['on', 'off', 1, 0, 'true', null])
      expect(() => parseOptions('m', schema, { keepReconstruction: given as never })).toThrow('allowed: true, false.')
  })
})
