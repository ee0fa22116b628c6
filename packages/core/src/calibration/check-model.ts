/** Whether a compressor can run on a model, before anything is fitted: stages that still have to learn are stood in for. */

import { ready } from '../artifacts'
import { openCache } from '../cache/cache'
import { compose } from '../compose'
import type { AnyStage, Artifact, Bound, KVCompressor, ModelShape, Site, Stage } from '../contract'
import {
  ContextOverflow,
  IncompatibleStages,
  ModelMismatch,
  OptionError,
  UnsupportedStage,
  WindowError,
} from '../errors'

/**
 * Opens an empty cache and frees it again. A stage without its artifact is bound all the same, for what it refuses on its own
 * (dims that do not divide); what only its artifact decides is taken as fitting.
 * @param model as the compressor's model stages leave it (their ids in `transformedBy`)
 * @param artifacts of the stages that are fitted already
 * @throws ModelMismatch, IncompatibleStages, WindowError, UnsupportedStage, ArtifactMismatch: what `openCache` throws
 */
export function checkModel(model: ModelShape, compressor: KVCompressor, artifacts: readonly Artifact[] = []): void {
  const whole = compose(compressor)
  const lacks = (stage: AnyStage): boolean =>
    stage.fit !== undefined && !artifacts.some((artifact) => artifact.stage === stage.id)
  // What a transform will make is not known before it is fitted, and so not what the stages behind it receive.
  const unknownRows = whole.stages.some((s) => lacks(s) && s.kind === 'transform')
  const stages = whole.stages.map((stage) => {
    if (unknownRows && (stage.kind === 'predict' || stage.kind === 'quantize')) return standIn(stage, false)
    return lacks(stage) ? standIn(stage, true) : stage
  })
  openCache(model, ready({ ...whole, stages }, artifacts)).dispose()
}

/** The stage as it would be, were its artifact there; nothing but the form of its rows is asked of it. */
function standIn(stage: AnyStage, asked: boolean): AnyStage {
  const { fit: _, ...rest } = stage as Stage
  const bind = (site: Site): Bound[AnyStage['kind']] => {
    const like = LIKE[stage.kind as keyof typeof LIKE]?.(site) ?? {}
    if (!asked) return like
    try {
      return (stage as Stage).bind(site)
    } catch (error) {
      // A stage checks itself first and looks for its artifact then; its own refusals count.
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
  quantize: (): Bound['quantize'] => ({
    layout: { kind: 'custom' },
    rowsPerGroup: 1,
    theoreticalBitsPerValue: 16,
    encode: never,
    decode: never,
  }),
} as const
