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

/** What passes are made from. */
export interface ReplayContext {
  /** Every token seen, dropped ones included. */
  readonly tokens: Int32Array
  /** Ids of a text, without start and end tokens; throws where the model has no tokenizer. */
  encode(text: string): Int32Array
}
