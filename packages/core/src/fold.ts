/** Says which stages act on a layer, and follows the space of its rows through them. */
import type { AnyStage, Kind, KVCompressor, Part, Space, Stage } from './contract'
import { type Cure, oneOrLayers, renamed } from './cures'
import { IncompatibleStages } from './errors'

/** Whether a stage acts on a layer. */
export const actsOn = (stage: AnyStage, layer: number): boolean =>
  (stage.on?.layers?.includes(layer) ?? true) && !stage.on?.except?.includes(layer)

/** Whether there may be a layer and part that two stages act on both. */
export function overlap(a: AnyStage, b: AnyStage): boolean {
  const parts = a.on?.part === undefined || b.on?.part === undefined || a.on.part === b.on.part
  const named = new Set([a, b].flatMap((s) => [...(s.on?.layers ?? []), ...(s.on?.except ?? [])]))
  return parts && [...named, Math.max(-1, ...named) + 1].some((layer) => actsOn(a, layer) && actsOn(b, layer))
}

/** The stages of one kind that act on a layer (and part). */
export function stagesOn<K extends Kind>(c: KVCompressor, kind: K, layer: number, part?: Part): readonly Stage<K>[] {
  return c.stages.filter(
    (s) => s.kind === kind && actsOn(s, layer) && (part === undefined || (s.on?.part ?? part) === part),
  ) as unknown as readonly Stage<K>[]
}

/** The space of a part's rows as the model makes them. */
export const modelSpace = (part: Part): Space => ({
  part,
  heads: 'each',
  dim: null,
  rope: part === 'keys' ? 'free' : 'none',
  latent: false,
  layerGroup: 1,
  tokenSets: 'model',
  drops: 'never',
  slots: false,
  randomAccess: true,
})

/**
 * The space of a part's rows after the last stage. Every stage is asked whether it accepts the space before it, so an illegal mix is
 * refused here.
 */
export function foldSpace(stages: readonly AnyStage[], part: Part): Space {
  return foldSpaces(stages, part).at(-1)?.space ?? modelSpace(part)
}

/** A stage, and the space behind it. */
interface Step {
  readonly stage: AnyStage
  readonly space: Space
}

/** The space after each stage of a part, in order. */
export function foldSpaces(stages: readonly AnyStage[], part: Part): readonly Step[] {
  let space = modelSpace(part)
  let claimed: { readonly side: Space['rope']; readonly by: AnyStage } | null = null
  const steps: Step[] = []
  for (const stage of stages) {
    if ((stage.on?.part ?? part) !== part) continue
    const next = inSomeLayers(stage, accepted(stages, stage, steps, space), space)
    if (next.rope === 'pre' || next.rope === 'post') {
      if (claimed && claimed.side !== next.rope)
        throw new IncompatibleStages(
          nameOf(claimed.by),
          nameOf(stage),
          `${stage.id} takes keys ${SIDE[next.rope]} RoPE, and ${claimed.by.id} works on keys ${SIDE[claimed.side === 'pre' ? 'pre' : 'post']} it.`,
          oneOrLayers(methodOf(claimed.by), methodOf(stage)),
        )
      claimed ??= { side: next.rope, by: stage }
    }
    space = next
    steps.push({ stage, space })
  }
  return steps
}

/** What a stage makes of a space. A refusal names the first stage behind which it cannot stand. */
function accepted(stages: readonly AnyStage[], stage: AnyStage, steps: readonly Step[], space: Space): Space {
  try {
    return stage.accepts(space, steps.at(-1)?.stage.id ?? 'the model')
  } catch (last) {
    for (const step of steps)
      try {
        stage.accepts(step.space, step.stage.id)
      } catch (error) {
        throw asWritten(error, stages, stage, step.stage)
      }
    throw asWritten(last, stages, stage, null)
  }
}

/** A refusal with methods named as the user wrote them, and the cures that can cure. */
function asWritten(error: unknown, stages: readonly AnyStage[], stage: AnyStage, earlier: AnyStage | null): unknown {
  if (!(error instanceof IncompatibleStages) || error.cures.length === 0) return error
  const of = (id: string): Pick<AnyStage, 'id' | 'method'> => [stage, earlier].find((s) => s?.id === id) ?? { id }
  return new IncompatibleStages(
    error.earlier === null ? null : nameOf(of(error.earlier)),
    nameOf(of(error.later)),
    error.reason,
    error.cures
      .flatMap((cure) => possible(cure, stages, earlier))
      .map((cure) => renamed(cure, (id) => methodOf(of(id)))),
  )
}

/** What of a cure can cure. */
function possible(cure: Cure, stages: readonly AnyStage[], earlier: AnyStage | null): readonly Cure[] {
  // Heads that keep different numbers of tokens do not share them.
  if (cure.kind === 'wrap' && cure.combinator === 'sharedTokens' && stages.some((s) => s.facts?.ragged)) return []
  // A budget stands on a scorer, and so does a pick by scores: without one it goes, and beside one nothing that drops tokens can take its place.
  const scored = stages.some((s) => s.kind === 'score')
  if (!earlier || !goesByScores(earlier) || (scored && earlier.kind !== 'budget')) return [cure]
  if (cure.kind === 'leaveOut' || (cure.kind === 'replace' && scored))
    return [{ kind: 'leaveOut', anyOf: [earlier.id] }]
  return scored || cure.kind === 'replace' || cure.kind === 'advice' ? [cure] : []
}

/** Whether a stage needs the scores of a scorer, its own or another's. */
export const goesByScores = ({ kind, facts }: AnyStage): boolean =>
  kind === 'budget' || (kind === 'pick' && (facts?.by ?? 'scores') === 'scores')

/** The method that a user wrote to get a stage. */
export const methodOf = ({ id, method }: Pick<AnyStage, 'id' | 'method'>): string => method ?? id

/** A stage with the method that it is part of. */
export const nameOf = ({ id, method }: Pick<AnyStage, 'id' | 'method'>): string =>
  method === undefined ? id : `${method} (its ${id})`

/** A stage that drops tokens in some layers leaves those layers with other tokens than the rest. */
const inSomeLayers = ({ on }: AnyStage, next: Space, before: Space): Space =>
  (on?.layers || on?.except?.length) && next.drops !== before.drops && next.tokenSets === 'model'
    ? { ...next, tokenSets: 'layer' }
    : next

const SIDE = { pre: 'before', post: 'after' } as const

/** On which side of RoPE a layer stores its keys: where its stages work on them, and after RoPE when none says. */
export function keySide(stages: readonly AnyStage[], layer: number): 'pre' | 'post' {
  const acting = stages.filter((s) => actsOn(s, layer))
  return foldSpaces(acting, 'keys').some(({ space }) => space.rope === 'pre') ? 'pre' : 'post'
}
