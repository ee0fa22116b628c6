import { expect, it } from 'vitest'
import { EvalOptionError } from '../errors'
import { goldenTrials, trialsByForm } from './passkey-trials'

const bytes = { encode: (text: string) => Int32Array.from(text, (c) => c.charCodeAt(0)), bosId: 256 }
const filler = Array.from({ length: 900 }, (_, i) => `word${i}`).join(' ')
const text = (ids: Int32Array): string => String.fromCharCode(...ids.filter((id) => id < 256))

const form = {
  needle: ' The passkey is {passkey}. Remember it. ',
  question: '\nWhat is the passkey? The passkey is',
  answer: ' {passkey}.',
  digits: 5,
  bos: true,
  trial: { tokens: 1000 },
}

it('makes trials by the rule of a form file', () => {
  const [first, second] = trialsByForm(form, { tokenizer: bytes, filler, trials: 2, tokens: 1000 })
  // 10000 + (0 · 7919 + 12345) mod 90000
  expect(text(first!.context)).toContain(' The passkey is 22345. Remember it. ')
  expect(text(second!.context)).toContain(' The passkey is 30264. Remember it. ')
  expect(first!.context[0]).toBe(256)
  expect(first!.context.length + first!.question.length).toBe(1000)
  expect(text(first!.answer.slice(first!.digits.from, first!.digits.to))).toBe('22345')
})

it('makes trials in the golden form, the same for the same seed', () => {
  const wish = { tokenizer: bytes, filler, trials: 3, tokens: 600, seed: 7 }
  const trials = goldenTrials(wish)
  for (const trial of trials) {
    expect(trial.context.length + trial.question.length).toBe(600)
    expect(text(trial.context)).toContain(`The pass key is ${text(trial.answer)}. Remember it.`)
  }
  expect(goldenTrials(wish)).toEqual(trials)
  expect(goldenTrials({ ...wish, seed: 8 })).not.toEqual(trials)
})

it('refuses trials longer than the filler', () => {
  expect(() => goldenTrials({ tokenizer: bytes, filler: 'short', trials: 1, tokens: 600, seed: 0 })).toThrow(
    /Ask for shorter passkey trials/,
  )
})

it.each([
  ['by a form', (tokens: number) => trialsByForm(form, { tokenizer: bytes, filler, trials: 3, tokens })],
  ['in the golden form', (tokens: number) => goldenTrials({ tokenizer: bytes, filler, trials: 3, tokens, seed: 1 })],
])('makes trials %s of every length that leaves room for filler, and refuses the others', (_, trialsOf) => {
  let least = 0
  for (let tokens = 1; tokens < 400; tokens++) {
    const made = (() => {
      try {
        return trialsOf(tokens)
      } catch (error) {
        expect(String(error)).toMatch(/passkey tokens is \d+; allowed: more than the \d+ tokens/)
        expect(error).toBeInstanceOf(EvalOptionError)
        least = Number(/from (\d+) tokens/.exec(String(error))?.[1])
        expect(tokens).toBeLessThan(least)
        return []
      }
    })()
    if (tokens >= least) expect(made).toHaveLength(3)
    for (const { context, question, answer, digits } of made) {
      expect(context.length + question.length).toBe(tokens)
      expect(text(context)).toContain(text(answer.slice(digits.from, digits.to)))
    }
  }
})
