/** How many rows stay exact. */

/** How many rows of each part stay exact. A method proposes it, and `window()` overrides the proposal. */
export interface Windows {
  /** First tokens of the sequence that are never sealed. */
  readonly sinks: number
  readonly keys: Window
  readonly values: Window
}

/**
 * The `recent` newest rows always stay exact. Older ones wait beside them until there are `block` of these, and are sealed then: with
 * `drain: 'blocks'` as many whole blocks as there are, with `'all'` every row beyond `recent`.
 */
export interface Window {
  readonly recent: number
  readonly block: number
  readonly drain: 'blocks' | 'all'
}

/** One window that `compose()` made of different ones for the same part. */
export interface MergedWindow {
  readonly part: 'keys' | 'values'
  /** Which compressor proposed which window. Windows that never end are left out. */
  readonly from: readonly { readonly name: string; readonly window: Window }[]
}
