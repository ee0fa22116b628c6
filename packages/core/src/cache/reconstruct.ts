/**
 * Rebuilds the rows that predictors read: those of each layer from those of the layer before, in order. A step remembers what it has rebuilt
 * until the next layer has used it, so each layer is rebuilt once when the layers are walked in order.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { Part } from '../contract'
import { bytesOf } from '../tensors'
import type { Account } from './account'
import type { LayerCache } from './layer'
import { readMain } from './rows/read'
import type { Rows } from './rows/rows'

export class Reconstructor {
  private readonly memo = new Map<string, { readonly layer: number; readonly tensor: tf.Tensor2D }>()

  constructor(
    private readonly layers: readonly LayerCache[],
    private readonly account: Account,
  ) {}

  /** What a predictor sees of stored rows `[from, from + count)` of a layer, `[count, width]`. It is borrowed until `forget`. */
  main(layer: number, part: Part, from: number, count: number): tf.Tensor2D {
    const rows = this.rowsOf(layer, part)
    return this.remember(`main ${layer} ${part} ${from} ${count} ${rows.views.version}`, layer, () =>
      readMain(rows, from, count, (f, c) => this.prediction(layer, part, f, c)),
    )
  }

  /** The prediction of rows `[from, from + count)`, or null for a part that nothing predicts. */
  prediction(layer: number, part: Part, from: number, count: number): tf.Tensor2D | null {
    const cache = this.layers[layer]
    const rows = this.rowsOf(layer, part)
    const predictor = rows.form.codec?.parts.predictor
    if (!predictor || !cache || count === 0) return null
    return this.remember(`prediction ${layer} ${part} ${from} ${count} ${rows.views.version}`, layer, () => {
      const sources = predictor.sources.map(({ back, part: of }) =>
        this.main(back === 0 ? layer : (cache.plan.previous ?? 0), of, from, count),
      )
      return tf.tidy(() => predictor.predict(sources)) as tf.Tensor2D
    })
  }

  /** The prediction of everything that is sealed. */
  ofSealed(layer: number, part: Part): tf.Tensor2D | null {
    const { views } = this.rowsOf(layer, part)
    return this.prediction(layer, part, views.rowsIn('sink'), views.rowsIn('sealed'))
  }

  /** Frees what layers before `layer` rebuilt. */
  forget(layer: number): void {
    for (const [key, entry] of this.memo)
      if (entry.layer < layer) {
        this.memo.delete(key)
        this.account.add(-bytesOf(entry.tensor))
        entry.tensor.dispose()
      }
  }

  private remember(key: string, layer: number, make: () => tf.Tensor2D): tf.Tensor2D {
    const known = this.memo.get(key)
    if (known) return known.tensor
    const tensor = tf.keep(make())
    this.account.add(bytesOf(tensor))
    this.memo.set(key, { layer, tensor })
    return tensor
  }

  private rowsOf(layer: number, part: Part): Rows {
    const lane = this.layers[layer]?.lanes[0]
    if (!lane) throw new Error(`layer ${layer} holds no rows`)
    return lane[part]
  }
}
