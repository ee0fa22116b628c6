/** The order in which layers store and index what a step brings. */
import type { LayerPlan } from './plan'

/**
 * For every layer, which layers store their rows once it has attended. A layer stores them as soon as the last layer that reads them has
 * attended, but a predicted layer not before the one that it is predicted from, and the last layer of a group not before the others.
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

/**
 * For every layer, which layers index their rows once it has sealed. Rows are indexed when they are sealed; those of a layer group are
 * sealed with its last layer.
 */
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
