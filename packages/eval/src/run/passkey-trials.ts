/** Makes passkey trials: by a form file such as the tiny model's, or in the golden data's form for any tokenizer. */
import * as z from 'zod'
import { EvalOptionError } from '../errors'
import type { PasskeyTrial } from './passkey'

/** What making trials needs of a tokenizer. */
export interface TrialTokenizer {
  encode(text: string): Int32Array
  readonly bosId: number | undefined
}

/** The form of the tiny model's `passkey.json`: ASCII texts, one byte one token. `{passkey}` stands for the digits. */
export const passkeyFormSchema = z.object({
  needle: z.string().includes('{passkey}'),
  question: z.string(),
  answer: z.string().includes('{passkey}'),
  digits: z.number().int().positive(),
  bos: z.boolean(),
  trial: z.object({ tokens: z.number().int().positive() }),
})
export type PasskeyForm = z.infer<typeof passkeyFormSchema>

interface Wish {
  readonly tokenizer: TrialTokenizer
  /** Text that surrounds the needle. */
  readonly filler: string
  readonly trials: number
  /** Tokens of a trial's prompt, question included. */
  readonly tokens: number
}

/** Trials by a form file: trial i hides `10000 + (i * 7919 + 12345) mod 90000` at depth (i + 0.5) / n, at a space of the filler. */
export function trialsByForm(form: PasskeyForm, wish: Wish): readonly PasskeyTrial[] {
  const { tokenizer, filler: sample, trials, tokens } = wish
  return Array.from({ length: trials }, (_, i) => {
    const passkey = String(10_000 + ((i * 7919 + 12_345) % 90_000))
    const needle = form.needle.replaceAll('{passkey}', passkey)
    // The needle takes the place of one space of the filler.
    const size = fillerSize(tokens, 1 + needle.length + form.question.length - 1)
    const at = (i * 4801) % checkedRoom(sample.length - size, tokens)
    const filler = sample.slice(at, at + size)
    const next = filler.indexOf(' ', Math.floor(((i + 0.5) / trials) * size))
    const cut = next < 0 ? Math.max(0, filler.lastIndexOf(' ')) : next
    const answer = form.answer.replaceAll('{passkey}', passkey)
    const from = answer.indexOf(passkey)
    return {
      context: prefixed(
        form.bos ? tokenizer.bosId : undefined,
        tokenizer.encode(filler.slice(0, cut) + needle + filler.slice(cut + 1)),
      ),
      question: tokenizer.encode(form.question),
      answer: tokenizer.encode(answer),
      digits: { from, to: from + passkey.length },
    }
  })
}

const HEAD =
  'There is an important piece of information hidden inside a lot of irrelevant text. Find it and memorize it.\n\n'
const QUESTION = '\n\nWhat is the pass key? The pass key is '

/** Trials in the golden data's form: head, filler with the needle between two tokens, question; the answer is the five digits. */
export function goldenTrials(wish: Wish & { readonly seed: number }): readonly PasskeyTrial[] {
  const { tokenizer, trials, tokens, seed } = wish
  const random = mulberry32(seed)
  const filler = tokenizer.encode(wish.filler)
  const head = tokenizer.encode(HEAD)
  const question = tokenizer.encode(QUESTION)
  return Array.from({ length: trials }, (_, i) => {
    const passkey = String(10_000 + Math.floor(random() * 90_000))
    const needle = tokenizer.encode(`\n\nThe pass key is ${passkey}. Remember it. ${passkey} is the pass key.\n\n`)
    const bos = tokenizer.bosId === undefined ? 0 : 1
    const size = fillerSize(tokens, bos + head.length + needle.length + question.length)
    const at = Math.floor(random() * checkedRoom(filler.length - size, tokens))
    // Depths cover 0.1 to 0.9 evenly, so that few trials still see beginning, middle and end.
    const cut = at + Math.trunc((0.1 + (0.8 * (i + random())) / trials) * size)
    const answer = tokenizer.encode(passkey)
    return {
      context: prefixed(
        tokenizer.bosId,
        Int32Array.from([...head, ...filler.subarray(at, cut), ...needle, ...filler.subarray(cut, at + size)]),
      ),
      question,
      answer,
      digits: { from: 0, to: answer.length },
    }
  })
}

/** Tokens of filler in a trial of `tokens`, of which `others` are not. @throws EvalOptionError when none is left */
function fillerSize(tokens: number, others: number): number {
  if (tokens > others) return tokens - others
  throw new EvalOptionError(
    'passkey tokens',
    tokens,
    `more than the ${others} tokens of the passkey, what surrounds it and the question`,
    `Ask for longer passkey trials, from ${others + 1} tokens.`,
  )
}

function checkedRoom(room: number, tokens: number): number {
  if (room > 0) return room
  throw new EvalOptionError(
    'passkey tokens',
    tokens,
    'fewer tokens than the filler text has',
    'Ask for shorter passkey trials or give a longer text.',
  )
}

const prefixed = (bos: number | undefined, ids: Int32Array): Int32Array =>
  bos === undefined ? ids : Int32Array.from([bos, ...ids])

/** A small seeded generator (Tommy Ettinger's mulberry32): numbers in [0, 1), the same on every platform. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
