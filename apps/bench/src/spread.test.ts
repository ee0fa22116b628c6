import { describe, expect, it } from 'vitest'
import { scatter, turnedTexts } from './spread'

describe('scatter', () => {
  it('is mean, sample deviation and range', () => {
    expect(scatter([2, 4, 4, 6])).toEqual({ runs: 4, mean: 4, deviation: Math.sqrt(8 / 3), min: 2, max: 6 })
  })

  it('has no deviation of one run', () => {
    expect(scatter([7])).toEqual({ runs: 1, mean: 7, deviation: null, min: 7, max: 7 })
  })
})

describe('turnedTexts', () => {
  const text = 'one\ntwo\nthree\nfour\n'

  it('begins evenly apart, after line breaks, and loses nothing', () => {
    expect(turnedTexts(text, 3)).toEqual([
      { offset: 0, text },
      { offset: 8, text: 'three\nfour\none\ntwo\n' },
      { offset: 14, text: 'four\none\ntwo\nthree\n' },
    ])
  })

  it('gives the text itself where no line break follows', () => {
    expect(turnedTexts('a line', 2)).toEqual([
      { offset: 0, text: 'a line' },
      { offset: 0, text: 'a line' },
    ])
  })
})
