/** Says which stages act on a layer, and follows the space of its rows through them. */
import type { AnyStage, Kind, KVCompressor, Part, Space, Stage } from './contract'
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

/** The space after each stage of a part, in order. */
export function foldSpaces(stages: readonly AnyStage[], part: Part): readonly { stage: AnyStage; space: Space }[] {
  let space = modelSpace(part)
  let earlier = 'the model'
  let claimed = { side: 'free' as Space['rope'], by: '' }
  const steps: { stage: AnyStage; space: Space }[] = []
  for (const stage of stages) {
    if ((stage.on?.part ?? part) !== part) continue
    const next = inSomeLayers(stage, stage.accepts(space, earlier), space)
    if (next.rope === 'pre' || next.rope === 'post') {
      if (claimed.side !== 'free' && claimed.side !== next.rope)
        throw new IncompatibleStages(
          claimed.by,
          stage.id,
          `${stage.id} takes keys ${SIDE[next.rope]} RoPE, and ${claimed.by} works on keys ${SIDE[claimed.side === 'pre' ? 'pre' : 'post']} it.`,
          'Choose methods of the same side, or give them different layers with onLayers().',
        )
      if (claimed.side === 'free') claimed = { side: next.rope, by: stage.id }
    }
    space = next
    earlier = stage.id
    steps.push({ stage, space })
  }
  return steps
}

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
