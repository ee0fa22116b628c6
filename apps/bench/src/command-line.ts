// Flags that the measuring commands share.
import { parseArgs } from 'node:util'

export interface MeasureFlags {
  /** Parts of compositions or names of groups; empty: all. */
  readonly only: readonly string[]
  readonly fresh: boolean
  /** Make the page from what is measured, measure nothing. */
  readonly page: boolean
}

/** `--only higgs,aqua` (repeatable), `--fresh`, `--page`. */
export function measureFlags(): MeasureFlags {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', multiple: true, default: [] },
      fresh: { type: 'boolean', default: false },
      page: { type: 'boolean', default: false },
    },
  })
  const only = values.only.flatMap((each) => each.split(',')).map((each) => each.trim())
  return { only: only.filter((each) => each !== ''), fresh: values.fresh, page: values.page }
}
