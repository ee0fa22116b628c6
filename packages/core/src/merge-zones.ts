/**
 * What the compressors of a mix must agree on: windows, the store of exact rows, and what a step reads of its own rows. Every cure can be
 * followed as it is written.
 */
import type { KVCompressor, MergedWindow, Part, RowStore, Window, Windows } from './contract'
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
      {
        kind: 'wrap',
        why: `give both the same, around ${b.card.name}`,
        combinator: 'ownRows',
        args: [a.ownRows ?? 'exact'],
        around: null,
      },
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
      {
        kind: 'wrap',
        why: `give both the same, around ${b.card.name}`,
        combinator: 'window',
        settings: { store: a.store ?? 'f16' },
        around: null,
      },
    )
  return a?.store
}

/**
 * Merges the windows of a mix. It takes the most sinks that anyone asks for. For each part it takes the finite window that is proposed; of
 * different ones it makes the smallest that serves all, and writes that down for the report. Where a stage predicts, keys and values get
 * one window in the same way.
 * @throws IncompatibleStages
 */
export function mergeWindows(parts: readonly KVCompressor[]): Pick<KVCompressor, 'window' | 'mergedWindows'> {
  const given = parts.flatMap((p) => (p.window ? [{ name: p.card.name, window: p.window }] : []))
  if (given.length === 0) return {}
  const mergedWindows: MergedWindow[] = []
  const one = (part: Part): Window => {
    const from = given
      .map(({ name, window }) => ({ name, window: window[part] }))
      .filter(({ window }) => window.recent !== Number.POSITIVE_INFINITY)
    const [a] = from
    if (!a) return UNBOUNDED
    if (from.every(({ window }) => sameWindow(window, a.window))) {
      mergedWindows.push(...parts.flatMap((p) => p.mergedWindows ?? []).filter((m) => m.part === part))
      return a.window
    }
    mergedWindows.push({ part, from })
    const groups = parts.flatMap((p) => p.stages.filter((s) => s.kind === 'quantize' && (s.on?.part ?? part) === part))
    return mergedWindow(
      from.map(({ window }) => window),
      groups.map((s) => s.facts?.rowsPerGroup ?? 1),
      groups.map((s) => s.id),
    )
  }
  const sinks = Math.max(...given.map((g) => g.window.sinks))
  const [keys, values] = [one('keys'), one('values')]
  // A predictor needs one window for both parts, since rows are predicted from rows that are sealed at the same time.
  if (!parts.some((p) => p.stages.some((s) => s.kind === 'predict')) || sameWindow(keys, values))
    return { window: { sinks, keys, values }, ...(mergedWindows.length > 0 ? { mergedWindows } : {}) }
  const from = given.flatMap(({ name, window }) =>
    PARTS.filter((part) => window[part].recent !== Number.POSITIVE_INFINITY).map((part) => ({
      name: `${part} of ${name}`,
      window: window[part],
    })),
  )
  const quantizers = parts.flatMap((p) => p.stages.filter((s) => s.kind === 'quantize'))
  const both = mergedWindow(
    from.map(({ window }) => window),
    quantizers.map((s) => s.facts?.rowsPerGroup ?? 1),
    quantizers.map((s) => s.id),
  )
  return { window: { sinks, keys: both, values: both }, mergedWindows: PARTS.map((part) => ({ part, from })) }
}
const PARTS: readonly Part[] = ['keys', 'values']

const sameWindow = (a: Window, b: Window): boolean =>
  a.recent === b.recent && a.block === b.block && a.drain === b.drain

/** The most rows that a common group may have. A larger one would leave most of a cache exact. */
const LARGEST_GROUP = 4096

/**
 * Makes the smallest window that serves several. It has the most `recent` rows, and the largest block, raised to a multiple of the rows that
 * every quantizer seals together. It drains `all` where all do, else `blocks`, with which nothing waits longer than for one block.
 * @param groups how many rows each quantizer seals together
 * @param ids the names of the quantizers
 * @throws IncompatibleStages when groups have no common multiple of reasonable size
 */
export function mergedWindow(
  windows: readonly Window[],
  groups: readonly number[],
  ids: readonly string[] = [],
): Window {
  const finite = windows.filter(({ recent }) => recent !== Number.POSITIVE_INFINITY)
  const drain = finite.every((w) => w.drain === 'all') ? 'all' : 'blocks'
  const block = Math.max(1, ...finite.map((w) => w.block), ...groups)
  const common = groups.reduce(leastCommonMultiple, 1)
  if (common > LARGEST_GROUP)
    throw new IncompatibleStages(
      ids[0] ?? 'a quantizer',
      ids.at(-1) ?? 'another',
      `they seal groups of ${[...new Set(groups)].join(' and ')} rows, and blocks that serve both would take ${common}.`,
      { kind: 'advice', text: 'choose groups of which one divides the other' },
    )
  return {
    recent: Math.max(...finite.map((w) => w.recent)),
    block: drain === 'all' ? block : Math.ceil(block / common) * common,
    drain,
  }
}

/** The smallest number that both divide. */
export const leastCommonMultiple = (a: number, b: number): number => (a / greatestCommonDivisor(a, b)) * b
const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b))

/** Makes the same window for keys and values. By default it has no recent rows and no sinks, and drains whole blocks. */
export function evenWindows(o: {
  readonly sinks?: number
  readonly recent?: number
  readonly block: number
  readonly drain?: Window['drain']
}): Windows {
  const one: Window = { recent: o.recent ?? 0, block: o.block, drain: o.drain ?? 'blocks' }
  return { sinks: o.sinks ?? 0, keys: one, values: one }
}
