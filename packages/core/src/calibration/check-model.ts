/** Says whether a compressor can run on a model before anything is fitted. Stages that still have to learn are replaced by stand-ins. */

import { ready } from '../artifacts'
import { askedOf } from '../asked'
import { openCache } from '../cache/open'
import { compose } from '../compose'
import type { AnyStage, Artifact, Bound, Foreseen, KVCompressor, ModelShape, Site, Stage } from '../contract'
import {
  ContextOverflow,
  IncompatibleStages,
  ModelMismatch,
  OptionError,
  UnsupportedStage,
  WindowError,
} from '../errors'

/**
 * Opens an empty cache and frees it again. A stage without its artifact is bound all the same, so that it can refuse what it refuses on its
 * own (dims that do not divide). Behind it stands what its fit foresees, and what its fit does not foresee is taken to fit.
 * @param model as the compressor's model stages leave it (their ids in `transformedBy`)
 * @param artifacts of the stages that are fitted already
 * @throws ModelMismatch, IncompatibleStages, WindowError, UnsupportedStage, ArtifactMismatch: what `openCache` throws
 */
export function checkModel(model: ModelShape, compressor: KVCompressor, artifacts: readonly Artifact[] = []): void {
  const whole = compose(compressor)
  const lacks = (stage: AnyStage): boolean =>
    stage.fit !== undefined && !artifacts.some((artifact) => artifact.stage === stage.id)
  // Before a transform is fitted that foresees nothing nobody knows what it will make, so the stages behind it cannot be asked either.
  const unknownRows = whole.stages.some((s) => lacks(s) && s.kind === 'transform' && !s.fit?.foresee)
  const stages = whole.stages.map((stage) => {
    const foreseen = (site: Site): Foreseen =>
      lacks(stage) ? (stage.fit?.foresee?.(site, askedOf(model, whole, stage)) ?? {}) : {}
    if (unknownRows && (stage.kind === 'predict' || stage.kind === 'quantize')) return standIn(stage, false, foreseen)
    return lacks(stage) ? standIn(stage, true, foreseen) : stage
  })
  openCache(model, ready({ ...whole, stages }, artifacts)).dispose()
}

/** Stands in for a stage whose artifact is not there yet. It is asked for nothing but the form of its rows. */
function standIn(stage: AnyStage, asked: boolean, foresee: (site: Site) => Foreseen): AnyStage {
  const { fit: _, ...rest } = stage as Stage
  const bind = (site: Site): Bound[AnyStage['kind']] => {
    const like = { ...LIKE[stage.kind as keyof typeof LIKE]?.(site, stage), ...foresee(site) }
    if (!asked) return like
    try {
      return (stage as Stage).bind(site)
    } catch (error) {
      // A stage checks itself before it looks for its artifact, so what it refuses here it refuses with an artifact too.
      if (REFUSALS.some((refusal) => error instanceof refusal)) throw error
      return like
    }
  }
  return { ...rest, bind } as unknown as AnyStage
}

const REFUSALS = [ModelMismatch, IncompatibleStages, WindowError, UnsupportedStage, OptionError, ContextOverflow]

const never = (): never => {
  throw new UnsupportedStage('a stand-in', 'it was opened to be checked, not to run.')
}

const LIKE = {
  transform: (site: Site): Bound['transform'] => ({
    fitted: 'model',
    needs: {},
    main: { heads: site.heads, dim: site.dim },
    encode: never,
    decoder: never,
  }),
  predict: (): Bound['predict'] => ({ sources: [], predict: never, keepReconstruction: false }),
  quantize: (_: Site, { facts }: AnyStage): Bound['quantize'] => ({
    layout: { kind: 'custom', fields: {} },
    rowsPerGroup: facts?.rowsPerGroup ?? 1,
    theoreticalBitsPerValue: 16,
    encode: never,
    decode: never,
  }),
} as const
