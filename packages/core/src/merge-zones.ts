/**
 * What the compressors of a mix must agree on: windows, the store of exact rows, and what a step reads of its own rows. Every cure can be
 * followed as it is written.
 */
import type { KVCompressor, Part, RowStore, Window, Windows } from './contract'
import { IncompatibleStages } from './errors'

/** The window of a cache without a quantizer: it never ends, so nothing is ever sealed. */
const UNBOUNDED: Window = { recent: Number.POSITIVE_INFINITY, block: 1, drain: 'blocks' }
export const NO_SEALING: Windows = { sinks: 0, keys: UNBOUNDED, values: UNBOUNDED }

/** What a step sees of its own rows, as those compressors say that say anything. @throws IncompatibleStages when two say different things */
export function ownRowsOf(parts: readonly KVCompressor[]): Pick<KVCompressor, 'ownRows'> {
  const [a, ...rest] = parts.filter((p) => p.ownRows !== undefined)
  const b = rest.find((p) => p.ownRows !== a?.ownRows)
  if (a && b)
    throw new IncompatibleStages(
      a.card.name,
      b.card.name,
      'one attends to its own rows as they are, the other as they are stored.',
      `Give both the same: ownRows('${a.ownRows}', ...) around ${b.card.name}.`,
    )
  return a?.ownRows ? { ownRows: a.ownRows } : {}
}

/** How exact rows are stored, as those compressors say that say anything. @throws IncompatibleStages when two say different things */
export function singleStore(parts: readonly KVCompressor[]): RowStore | undefined {
  const [a, ...rest] = parts.filter((p) => p.store !== undefined)
  const b = rest.find((p) => p.store !== a?.store)
  if (a && b)
    throw new IncompatibleStages(
      a.card.name,
      b.card.name,
      `they store exact rows differently (${a.store} and ${b.store}).`,
      `Give both the same: window({ store: '${a.store}' }, ...) around ${b.card.name}.`,
    )
  return a?.store
}

/**
 * Merges windows: it takes the most sinks that anyone asks for and, per part, the one finite window. @throws IncompatibleStages for two
 * different finite ones
 */
export function mergeWindows(parts: readonly KVCompressor[]): Windows | undefined {
  const given = parts.flatMap((p) => (p.window ? [{ name: p.card.name, window: p.window }] : []))
  if (given.length === 0) return undefined
  const one = (part: Part): Window => {
    const [a, ...rest] = given.filter((g) => g.window[part].recent !== Number.POSITIVE_INFINITY)
    const differs = (g: (typeof given)[number]) => JSON.stringify(g.window[part]) !== JSON.stringify(a?.window[part])
    const b = rest.find(differs)
    if (a && b) {
      // The cure proposes the larger blocks, which fit both more often: a stage that seals row by row takes any size, one of groups only multiples.
      const [kept, changed] = blockOf(a.window) >= blockOf(b.window) ? [a, b] : [b, a]
      throw new IncompatibleStages(
        a.name,
        b.name,
        `they propose different windows for ${part}.`,
        `Give both the same: window(${windowsText(kept.window, changed.window)}, ...) around ${changed.name}.`,
      )
    }
    return a?.window[part] ?? UNBOUNDED
  }
  return { sinks: Math.max(...given.map((g) => g.window.sinks)), keys: one('keys'), values: one('values') }
}

/** How many rows the larger of two finite windows seals at once. */
const blockOf = ({ keys, values }: Windows): number =>
  Math.max(...[keys, values].map(({ recent, block }) => (recent === Number.POSITIVE_INFINITY ? 0 : block)))

/** Writes the windows of `a`, and those of `b` where `a` has none, as an argument of `window()`. */
function windowsText(a: Windows, b: Windows): string {
  const one = (part: Part): string => {
    const { recent, block, drain } = a[part].recent === Number.POSITIVE_INFINITY ? b[part] : a[part]
    return recent === Number.POSITIVE_INFINITY
      ? ''
      : `${part}: { recent: ${recent}, block: ${block}, drain: '${drain}' }`
  }
  return `{ ${[one('keys'), one('values')].filter((text) => text !== '').join(', ')} }`
}
