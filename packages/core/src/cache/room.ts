/** Decides how room is made before an append, as stages with `when: 'room'` say, and counts how many tokens and positions are left. */
import type { AnyStage, ModelShape, RowRange } from '../contract'
import { UnsupportedStage } from '../errors'
import { keepRanges } from './drop'
import type { Lane } from './lane'
import type { LayerCache } from './layer'
import type { LayerPlan } from './plan'

/**
 * Decides what makes room in a layer before an append. Nothing changes yet: a step that has begun may still be refused. `seen` tokens have
 * come so far.
 * @returns what makes the room, one call for each lane that needs some
 */
export function roomFor(layer: LayerCache, incoming: number, seen: number): readonly (() => void)[] {
  const { pick, resample } = layer.plan
  if (resample)
    return layer.lanes
      .filter((lane) => lane.rows + incoming > resample.capacity && lane.rows === resample.capacity)
      .map((lane) => () => {
        lane.resample(resample, seen)
        layer.changed = true
      })
  if (pick?.when !== 'room') return []
  return layer.lanes.flatMap((lane, i) => {
    const tokens = lane.liveRows
    const count = pick.does.count(tokens, incoming)
    if (count >= tokens) return []
    const now = layer.pickContext(i, { phase: 'decode', start: seen, count: 0 })
    const kept = pick.does.keep(tokens, count, null, {}, now)
    if (!isRanges(kept))
      throw new UnsupportedStage(pick.id, 'a pick that makes room before an append must return row ranges.')
    const drop = () => {
      keepRanges(lane, liveToStored(lane, kept), pick.does.positions === 'slot')
      layer.changed = true
    }
    return [drop]
  })
}

/** How many positions the context must have for `incoming` more tokens, once the stages have made room for them. */
export function positionsWith({ plan, lanes }: LayerCache, incoming: number, seen: number): number {
  const { pick, resample } = plan
  if (resample) return Math.min(seen + incoming, resample.capacity)
  return Math.max(
    0,
    ...lanes.map((lane) => {
      const renumbers = pick?.when === 'room' && pick.does.positions === 'slot'
      const dropped = renumbers ? Math.max(0, lane.liveRows - pick.does.count(lane.liveRows, incoming)) : 0
      return seen - lane.shift - dropped + incoming
    }),
  )
}

/** The largest number of tokens up to `most` that fits. It is searched for, since a token fewer may need no position less where room is made. */
export function mostThatFit(most: number, fits: (n: number) => boolean): number {
  if (fits(most)) return most
  let [takes, refuses] = [0, most]
  while (refuses - takes > 1) {
    const middle = Math.floor((takes + refuses) / 2)
    if (fits(middle)) takes = middle
    else refuses = middle
  }
  return takes
}

/**
 * Whether positions never run out: the layer reads another one's rows, or numbers its own anew when some go, and the rows that it keeps at
 * most fit the context.
 */
export function isEndless({ plan }: LayerCache, contextLength: number): boolean {
  const { pick, resample, source, layer } = plan
  if (source !== layer) return true
  if (resample) return resample.capacity <= contextLength
  if (!pick || !renumbers(plan)) return false
  // From a full context on, what a pick leaves and the tokens until it acts again must fit.
  const incoming = typeof pick.when === 'object' ? pick.when.everyTokens : 1
  const kept = pick.does.count(contextLength, pick.when === 'room' ? incoming : 0)
  return kept + incoming <= contextLength
}

const renumbers = ({ pick }: LayerPlan): boolean => pick?.does.positions === 'slot' && pick.when !== 'promptEnd'

/** What would let the sequence go on beyond the context, for `ContextOverflow`; undefined where no stage of the layers that end it numbers rows anew. */
export function contextCureOf(layers: readonly LayerCache[], model: ModelShape, stages: readonly AnyStage[]) {
  const ending = layers.filter((layer) => !isEndless(layer, model.contextLength))
  const ids = ending.map(({ plan }) =>
    plan.resample ? stages.find((s) => s.kind === 'resample')?.id : renumbers(plan) ? plan.pick?.id : undefined,
  )
  const [id] = ids
  if (id === undefined || ids.includes(undefined)) return undefined
  return `Shorten the prompt, or let ${[...new Set(ids)].join(' and ')} keep fewer rows than the context has positions (a smaller recent or window).`
}

/** The most tokens that one append may bring now. */
export function chunkLimitOf({ plan, lanes }: LayerCache): number {
  const { pick, resample } = plan
  const picks = pick?.does.chunkLimit ?? Number.POSITIVE_INFINITY
  if (!resample) return picks
  const rows = lanes[0]?.rows ?? 0
  const free = rows < resample.capacity ? resample.capacity - rows : resample.capacity - resample.sinks - resample.to
  return Math.min(picks, free)
}

export const isRanges = (kept: readonly RowRange[] | object): kept is readonly RowRange[] => Array.isArray(kept)

/** Turns ranges over live rows into ranges over stored rows, which differ while dropped rows are still held. */
export function liveToStored({ live }: Lane, ranges: readonly RowRange[]): RowRange[] {
  const row = live.marks?.[0]
  if (!row) return [...ranges]
  const stored: number[] = []
  for (const [i, x] of row.entries()) if (x === 1) stored.push(i)
  return ranges
    .filter((r) => r.end > r.start)
    .map((r) => ({ start: stored[r.start] ?? row.length, end: (stored[r.end - 1] ?? row.length - 1) + 1 }))
}
