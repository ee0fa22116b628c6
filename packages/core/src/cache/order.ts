/** In which order layers store and index what a step brings. */
import type { LayerPlan } from './plan'

/**
 * When each layer stores this step's rows: as soon as the last layer that reads them has attended; a predicted layer not before
 * its source, the last layer of a group not before the others.
 */
export function settleOrder(plans: readonly LayerPlan[]): readonly (readonly number[])[] {
  const at: number[] = []
  for (const { layer, source, previous, lanes } of plans) {
    if (source !== layer) continue
    const readers = plans.filter((p) => p.source === layer).map((p) => p.layer)
    const codecs = lanes.flatMap(({ keyCodec, valueCodec }) => [keyCodec, valueCodec])
    const after = codecs.flatMap((c) => [
      ...(c?.parts.predictor && previous !== null ? [previous] : []),
      ...(c?.parts.layers.at(-1) === layer ? c.parts.layers.filter((l) => l !== layer) : []),
    ])
    at[layer] = Math.max(layer, ...readers, ...after.map((l) => at[l] ?? l))
  }
  return plans.map((_, layer) => plans.map((p) => p.layer).filter((l) => at[l] === layer))
}

/** When each layer's rows are indexed: once they are sealed, which for a layer group its last layer does. */
export function indexOrder(plans: readonly LayerPlan[]): readonly (readonly number[])[] {
  const after = (p: LayerPlan): number =>
    Math.max(
      p.layer,
      ...p.lanes.flatMap(({ keyCodec, valueCodec }) =>
        [keyCodec, valueCodec].map((c) => c?.parts.layers.at(-1) ?? p.layer),
      ),
    )
  const own = plans.filter((p) => p.source === p.layer)
  return plans.map(({ layer }) => own.filter((p) => after(p) === layer).map((p) => p.layer))
}
