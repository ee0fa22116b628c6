/** Shows what a layer holds: its rows decoded, and the stored segments as they are. */
import type * as tf from '@tensorflow/tfjs-core'
import type { LaneView } from '../contract'
import type { Lane, LaneContext } from './lane'
import type { LayerCache } from './layer'
import { readAll } from './rows/read'
import type { Rows } from './rows/rows'
import { ZONES } from './rows/zones'

/** Decodes the rows of a lane in the order of storage, keys after RoPE; see `KVCache.materialize`. */
export async function materialized(
  lane: Lane,
  context: Pick<LaneContext, 'rotary' | 'prediction'>,
): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
  const { rows } = lane
  const { marks } = lane.live
  const keys = lane.rotatedKeys(context)
  const values = readAll(lane.values, context.prediction('values'))
  // Everything is read before the first wait, so a step that begins meanwhile cannot change it.
  const live = marks?.map((row) => row.slice())
  const tensor = lane.positions.tensor()
  const flat = (await tensor.data()) as Int32Array
  tensor.dispose()
  const positions = lane.shape.heads.map((_, h) =>
    flat.slice(h * rows, (h + 1) * rows).map((p, i) => (live?.[h]?.[i] === 0 ? -1 : p)),
  )
  return { keys, values, positions }
}

/** Lends the segments of every lane. */
export const segmentViews = ({ lanes }: LayerCache): readonly LaneView[] =>
  lanes.map((lane) => ({ heads: lane.shape.heads, keys: viewsOf(lane.keys), values: viewsOf(lane.values) }))

const viewsOf = ({ views }: Rows): LaneView['keys'] =>
  ZONES.flatMap((zone) =>
    views.in(zone).map(({ page, from, rows }) => {
      const { stored, tensors, capacity, form } = page
      return { zone, block: stored?.block ?? {}, tensors, from, rows, capacity, layout: form.layout }
    }),
  )
