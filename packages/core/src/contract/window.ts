/** How many rows stay exact. */

/** How many rows stay exact, per part. `window()` overrides a method's proposal. */
export interface Windows {
  /** First tokens of the sequence that are never sealed. */
  readonly sinks: number
  readonly keys: Window
  readonly values: Window
}

/**
 * At least `recent` newest rows stay exact. Once `recent + block` rows wait, whole blocks of the oldest are sealed:
 * as many as fit (`blocks`), or every row beyond `recent` (`all`).
 */
export interface Window {
  readonly recent: number
  readonly block: number
  readonly drain: 'blocks' | 'all'
}
