/** The text that calibration uses when none is given, and how a text becomes sequences and short sentences. */
import { readFile } from 'node:fs/promises'
import { EvalOptionError } from './errors'

/** Chapters 4 to 13 of Moby-Dick (public domain): English prose, and none of the texts that reports score. */
export const calibrationText = (): Promise<string> =>
  readFile(new URL('../text/calibration.txt', import.meta.url), 'utf8')

/** What the text is called in reports and artifacts. */
export const CALIBRATION_TEXT_NAME = 'Moby-Dick, chapters 4 to 13'

/** What a model's tokenizer must do here. */
export interface CalibrationTokenizer {
  /** Token that begins a sequence; undefined where the model has none. */
  readonly bosId: number | undefined
  /** The first `count` ids of a text; asked for without a start token, special tokens taken as text. */
  encodeFirst(text: string, count: number, options: { readonly bos: boolean; readonly special: boolean }): Int32Array
}

export interface CalibrationTokens {
  /** Independent sequences of the same length; a start token stands only where it was asked for. */
  readonly sequences: readonly Int32Array[]
  /** Short sentences, each the start token and consecutive ids. */
  readonly sentences: readonly Int32Array[]
}

/**
 * The first `sequences * tokens` ids as independent sequences, and the first ids again as `sentences` short ones.
 * @throws EvalOptionError when the text is too short, or a start token is asked for and the model has none
 */
export function calibrationTokens(o: {
  readonly text: string
  readonly tokenizer: CalibrationTokenizer
  /** Default 8. */
  readonly sequences?: number
  /** Tokens per sequence. Default 2048. */
  readonly tokens?: number
  /** Whether every sequence begins with the start token, which counts as one of its tokens. Default false. */
  readonly startToken?: boolean
  /** Default 30. */
  readonly sentences?: number
  /** Tokens per sentence, the start token included. Default 64. */
  readonly sentenceTokens?: number
}): CalibrationTokens {
  const { sequences = 8, tokens = 2048, startToken = false, sentences = 30, sentenceTokens = 64 } = o
  for (const [name, value] of Object.entries({ sequences, tokens, sentences, sentenceTokens }))
    if (!Number.isInteger(value) || value < 1)
      throw new EvalOptionError(name, value, 'a whole number from 1', 'Give how many to calibrate on.')
  const { bosId } = o.tokenizer
  if (startToken && bosId === undefined)
    throw new EvalOptionError('startToken', true, 'false: this model has no start token', 'Leave it out.')
  const start = startToken && bosId !== undefined ? [bosId] : []
  const ownOfSequence = tokens - start.length
  const own = bosId === undefined ? sentenceTokens : sentenceTokens - 1
  const wanted = Math.max(sequences * ownOfSequence, sentences * own)
  const ids = o.tokenizer.encodeFirst(o.text, wanted, { bos: false, special: false })
  if (ids.length < wanted)
    throw new EvalOptionError(
      'calibration',
      `${sequences} sequences of ${tokens} tokens and ${sentences} sentences of ${sentenceTokens}`,
      `at most ${ids.length} tokens in all, the length of the calibration text`,
      'Give a longer text, or fewer or shorter sequences.',
    )
  return {
    sequences: Array.from({ length: sequences }, (_, i) =>
      Int32Array.from([...start, ...ids.subarray(i * ownOfSequence, (i + 1) * ownOfSequence)]),
    ),
    sentences: Array.from({ length: sentences }, (_, i) => {
      const words = ids.slice(i * own, (i + 1) * own)
      return bosId === undefined ? words : Int32Array.from([bosId, ...words])
    }),
  }
}
