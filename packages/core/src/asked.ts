/** What a fit is asked for by the stages beside its own, before anything is fitted: channels that suit quantizers, layers that keep their rows. */
import { TablePool } from './cache/pool'
import type { AnyStage, Asked, KVCompressor, ModelShape, Part, Site } from './contract'
import { actsOn, foldSpaces, overlap } from './fold'
import { leastCommonMultiple } from './merge-zones'
import { siteOf } from './site'

/** Asks nothing of a fit, as if its stage stood alone. */
export const NOTHING_ASKED: Asked = Object.freeze({ channels: 1, layers: Object.freeze([]) })

/**
 * What the other stages of a compressor ask of a stage that learns.
 * @param model as the compressor's model stages leave it
 * @throws ModelMismatch of a transform that joins layers and finds none to join
 */
export function askedOf(model: ModelShape, { stages }: KVCompressor, stage: AnyStage): Asked {
  switch (stage.kind) {
    case 'transform':
      return { ...NOTHING_ASKED, channels: channelsAsked(stages, stage) }
    case 'model':
      return { ...NOTHING_ASKED, layers: joinedLayers(model, stages) }
    default:
      return NOTHING_ASKED
  }
}

/** What the channels of a transform's latents have to be a multiple of, for every quantizer that packs some of them. */
const channelsAsked = (stages: readonly AnyStage[], transform: AnyStage): number =>
  stages
    .filter((s) => s.kind === 'quantize' && overlap(s, transform))
    .map((s) => s.facts?.channels?.multipleOf ?? 1)
    .reduce(leastCommonMultiple, 1)

/** The layers that some transform joins with others, ascending. */
function joinedLayers(model: ModelShape, stages: readonly AnyStage[]): readonly number[] {
  const joined = new Set<number>()
  const pool = new TablePool()
  try {
    for (let layer = 0; layer < model.layers; layer++)
      for (const part of PARTS)
        for (const { stage, space } of foldSpaces(
          stages.filter((s) => actsOn(s, layer)),
          part,
        ))
          if (stage.kind === 'transform' && space.layerGroup > 1)
            for (const member of layersOf(stage, siteOf(model, layer, part, pool.hold))) joined.add(member)
  } finally {
    pool.release()
  }
  return [...joined].sort((a, b) => a - b)
}
const PARTS: readonly Part[] = ['keys', 'values']

const layersOf = ({ fit, bind }: AnyStage & { readonly kind: 'transform' }, site: Site): readonly number[] =>
  (fit ? fit.foresee?.(site, NOTHING_ASKED).layers : bind(site).layers) ?? []
