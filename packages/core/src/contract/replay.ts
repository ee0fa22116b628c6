/** Reading the context again before anything of it is dropped. */

/** One pass: tokens that the model reads after the context, on a copy of the cache that is thrown away. */
export interface ReplayPass {
  readonly tokens: Int32Array
  /** Original positions `[from, to)` whose attention is measured. */
  readonly from: number
  readonly to: number
  /** First tokens of the sequence that take part in the softmax beside the measured ones and the pass's own. Default 0. */
  readonly sinks?: number
}

/** What the model that reads says of its texts. */
export interface ReplayTexts {
  /** Ids of a text, without start and end tokens; a special token that it spells out is that token. */
  encode(text: string): Int32Array
  /** The text between the end of a user's message and the answer, as the model's chat template writes it; empty where it has none. */
  beforeAnswer(): string
}

/** What passes are made from. */
export interface ReplayContext extends ReplayTexts {
  /** Every token seen, dropped ones included. */
  readonly tokens: Int32Array
  /** How many tokens one pass may have, as the model's context allows. */
  readonly room: number
}
