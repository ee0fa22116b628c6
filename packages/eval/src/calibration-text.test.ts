import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { calibrationText, calibrationTokens } from './calibration-text'

/** One id per character. */
const letters = (bosId?: number) => ({
  bosId,
  encodeFirst: (text: string, count: number) =>
    Int32Array.from({ length: Math.min(count, text.length) }, (_, i) => text.charCodeAt(i)),
})

describe('calibration text', () => {
  it('is the text that SOURCE.md names', async () => {
    const text = await calibrationText()
    expect(text).toMatch(/^CHAPTER 4\. The Counterpane\./)
    expect(Buffer.byteLength(text)).toBe(70_372)
    expect(createHash('sha256').update(text).digest('hex')).toBe(SHA256)
  })
  it('becomes sequences that follow each other and sentences behind a start token', () => {
    const text = 'abcdefghij'
    const { sequences, sentences } = calibrationTokens({
      text,
      tokenizer: letters(1),
      sequences: 2,
      tokens: 5,
      sentences: 3,
      sentenceTokens: 4,
    })
    const word = (ids: Int32Array | undefined) => String.fromCharCode(...(ids ?? []))
    expect(sequences.map(word)).toEqual(['abcde', 'fghij'])
    expect(sentences.map(word)).toEqual(['\u0001abc', '\u0001def', '\u0001ghi'])
  })
  it('lets every sequence begin with the start token, where the model has one', () => {
    const o = { text: 'abcdefghij', sequences: 2, tokens: 4, startToken: true, sentences: 1, sentenceTokens: 4 }
    const { sequences } = calibrationTokens({ ...o, tokenizer: letters(1) })
    expect(sequences.map((ids) => String.fromCharCode(...ids))).toEqual(['\u0001abc', '\u0001def'])
    expect(() => calibrationTokens({ ...o, tokenizer: letters() })).toThrow(/no start token/)
  })
  it('without a start token, sentences are text alone', () => {
    const { sentences } = calibrationTokens({
      text: 'abcdefghij',
      tokenizer: letters(),
      sequences: 1,
      tokens: 4,
      sentences: 2,
      sentenceTokens: 4,
    })
    expect(sentences.map((s) => s.length)).toEqual([4, 4])
    expect(sentences[1]?.[0]).toBe('e'.charCodeAt(0))
  })
  it('refuses a text that is too short, and counts that are none', () => {
    expect(() => calibrationTokens({ text: 'abc', tokenizer: letters(1) })).toThrow(
      /8 sequences of 2048 tokens.*at most 3 tokens/,
    )
    expect(() => calibrationTokens({ text: 'abc', tokenizer: letters(1), sequences: 0 })).toThrow(/sequences is 0/)
  })
})

const SHA256 = '52f7f21d3ecd3d6334a90a71ddc7a36ad5434ce1c226eb6af5b7024e23206ec9'
