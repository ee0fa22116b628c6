/** Seals rows as the windows say: keys before values, each row once and from its original, predicted from what earlier layers have stored. */
import { allocateRows, gatherRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Part } from '../contract'
import type { LayerCache } from './layer'
import type { Reconstructor } from './reconstruct'
import { compact } from './rows/gather'
import type { Exempt, Page } from './rows/page'
import { readRange } from './rows/read'
import type { Rows } from './rows/rows'
import { unitOf } from './rows/stored'
import { dueRows, keepReconstructions, sealRows } from './rows/write'

/** Seals the rows of a layer, or of a whole layer group when it is the last of it. `atEnd` says that this step ends a prompt. */
export async function sealLayer(
  layer: LayerCache,
  layers: readonly LayerCache[],
  reconstructor: Reconstructor,
  atEnd: boolean,
): Promise<void> {
  for (const part of ['keys', 'values'] as const) {
    for (const [lane, { [part]: store }] of layer.lanes.entries()) {
      const { codec } = store.form
      if (!codec || codec.parts.layers.at(-1) !== layer.plan.layer) continue
      if (codec.fittedOnline && Object.keys(store.state).length === 0) continue
      if (codec.parts.transform?.afterPrompt === false && !atEnd) continue
      const stores = codec.parts.layers.map((l) => storeOf(layers, l, lane, part))
      const { count, unit } = dueRows(store)
      if (count > 0) layer.changed = true
      for (let done = 0; done < count; done += unit) await sealOldest(stores, unit, layer, part, reconstructor)
      // Each sealing begins at a whole word of metadata, so one that ends within a word leaves a place of its page idle.
      if (!codec.byBlocks && count % unitOf(codec.form) !== 0) compact(store)
    }
  }
}

const storeOf = (layers: readonly LayerCache[], layer: number, lane: number, part: Part): Rows => {
  const store = layers[layer]?.lanes[lane]?.[part]
  if (!store) throw new Error(`layer ${layer} has no ${part} to seal`)
  return store
}

/** Seals the oldest rows of the window, of every layer of a group. */
async function sealOldest(
  stores: readonly Rows[],
  count: number,
  layer: LayerCache,
  part: Part,
  reconstructor: Reconstructor,
): Promise<void> {
  const leader = stores.at(-1)
  const codec = leader?.form.codec
  if (!leader || !codec) return
  const [, from] = leader.views.zoneEnds
  const { predictor } = codec.parts
  // Predicts from what is stored, and not from originals, so that reading predicts the same.
  const prediction = reconstructor.prediction(layer.plan.layer, part, from, count)
  const members = stores.map((s) => readRange(s, s.views.zoneEnds[1], count))
  const block = codec.encode(members, leader.state, prediction)
  const exempt = block.exempt && (await exemptRows(block.exempt, members, leader))
  tf.dispose([...members, ...(block.exempt ? [block.exempt] : [])])
  let page: Page | null = null
  for (const store of [...stores].reverse()) page = sealRows(store, count, page ?? block.stored, exempt)
  if (predictor?.keepReconstruction) {
    const rows = reconstructor.main(layer.plan.layer, part, from, count)
    keepReconstructions(leader, tf.tidy(() => tf.add(rows, 0)) as tf.Tensor2D)
  }
}

/** Collects the rows that stay exact, for each layer of the group, and where they are. It reads the mask back once. */
async function exemptRows(mask: tf.Tensor, members: readonly tf.Tensor3D[], store: Rows): Promise<Exempt | null> {
  const marks = await mask.data()
  const [heads = 0, n = 0] = mask.shape
  const lists = Array.from({ length: heads }, (_, h) =>
    Array.from({ length: n }, (_, i) => i).filter((i) => (marks[h * n + i] ?? 0) > 0),
  )
  const most = Math.max(...lists.map((l) => l.length))
  if (most === 0) return null
  const places = new Int32Array(heads * most).fill(-1)
  lists.forEach((list, h) => {
    places.set(list, h * most)
  })
  const positions = tf.tensor2d(
    places.map((i) => Math.max(0, i)),
    [heads, most],
    'int32',
  )
  const rows = members.map((all) => {
    const kept = allocateRows(store.form.store, heads, most, all.shape[2])
    const exact = gatherRows([all], [n], positions, most) as tf.Tensor3D
    writeRows(kept, store.form.store, 0, exact)
    exact.dispose()
    return kept
  })
  positions.dispose()
  return { index: tf.tensor2d(places, [heads, most], 'int32'), places, rows }
}
