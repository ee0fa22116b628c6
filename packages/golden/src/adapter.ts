/** An adapter runs golden data through a method. A method's package has one on its subpath `./golden`, called `adapter`. */
import type { KVCompressor } from '@kvloom/core'
import type { TensorResult } from './compare'
import type { CaseJson, GoldenCase } from './schema'
import type { Rows } from './through-cache'

/** What a case came to. */
export interface Outcome {
  readonly tensors: readonly TensorResult[]
  /** What a reader of the report should know besides. */
  readonly message?: string
}

/** Runs the cases of a method's golden data. */
export interface CaseAdapter {
  /** The `method` of the golden.json files whose cases `run` takes. */
  readonly method: string
  /** Runs a case through the method; null when it is of a variant that the method does not know. */
  run(golden: GoldenCase): Promise<Outcome | null>
  /** Brings the cases of a golden.json of another form into the form of the schema. Default `json.cases` as it is. */
  cases?(json: Readonly<Record<string, unknown>>): readonly CaseJson[]
  /** The press of kvpress that is this method too, if there is one. */
  readonly press?: Press
}

/** A method that kvpress has as a press, and that has no golden data of another kind. */
export interface PressAdapter {
  readonly press: Press
}

export type GoldenAdapter = CaseAdapter | PressAdapter

/** Presses by their names in golden data. */
export type Presses = ReadonlyMap<string, Press>

/** A press of kvpress as a method. */
export interface Press {
  /** The name of the press, as `options.press` of a case has it. */
  readonly name: string
  /**
   * Makes the method with the options of a case, so that it keeps this fraction of the tokens.
   * @param presses the other presses at hand, for a press that needs one beneath it
   * @returns null when one that it needs is not there
   */
  make(golden: GoldenCase, keep: number, presses: Presses): KVCompressor | null
  /** Whether it keeps as many tokens as every press does by default; cases of the press `any` are checked against these. */
  readonly countsAsAny?: boolean
  /** Makes results for the expected tensors of these names, beside scores and kept tokens. */
  readonly more?: {
    readonly names: readonly string[]
    results(golden: GoldenCase, rows: Rows): Promise<TensorResult[]>
  }
}
