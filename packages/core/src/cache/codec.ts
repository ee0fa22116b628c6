/**
 * Seals the rows of one part of one layer and reads them back: transform, predictor and quantizer in this order, as one thing. A codec holds
 * no state of a sequence; what a prompt fitted (`state`) and what is predicted are handed in.
 */
import { allocateRows, mergeHeads, readRows, readsMergedHeads, splitHeads, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Lossless, Predictor, Quantizer, RowStore, Tensors, Transform } from '../contract'
import { UnsupportedStage } from '../errors'
import { formOf, listStored, mapStored, type PageLayout, type Stored, type StoredForm } from './rows/stored'

/** How many bits a scale and a number of an exact row take, by formula. */
const HALF_BITS = 16

export interface CodecParts {
  /** Heads and dim of the rows `[heads, n, dim]` that come in. */
  readonly heads: number
  readonly dim: number
  /** How `main` is stored when no quantizer packs it. */
  readonly store: RowStore
  readonly transform: Transform | null
  readonly predictor: Predictor | null
  readonly quantizer: Quantizer | null
  /** Names the quantizer in errors. */
  readonly quantizerId: string
  /** What codes the rows when they leave the device. */
  readonly lossless: Lossless | null
  /** The layers whose rows are sealed into one block, ascending, and the place of this codec's layer among them. */
  readonly layers: readonly number[]
  readonly member: number
}

/** What a block of rows becomes. */
export interface SealedBlock {
  readonly stored: Stored<tf.Tensor>
  /** f32 `[heads, n]`, 1 for every row that stays exact; null when none does. */
  readonly exempt: tf.Tensor | null
}

export class Codec {
  readonly mainHeads: number
  readonly mainDim: number
  /** How sealed rows are stored. */
  readonly form: StoredForm

  constructor(readonly parts: CodecParts) {
    this.mainHeads = parts.transform?.main.heads ?? parts.heads
    this.mainDim = parts.transform?.main.dim ?? parts.dim
    const { quantizer, store, lossless } = parts
    this.form = formOf(quantizer?.layout ?? { kind: 'dense', store }, lossless)
  }

  /** How many channels `main` has for one token, over all heads. Predictors see rows of this width. */
  get width(): number {
    return this.mainHeads * this.mainDim
  }
  get layout(): PageLayout {
    return this.form.layout
  }
  /** Heads and dim of what a page holds: `main`, or one row of the width of all its heads where a predictor or the quantizer merges them. */
  get stored(): { readonly heads: number; readonly dim: number } {
    const { quantizer, predictor } = this.parts
    return predictor || quantizer?.mergedHeads
      ? { heads: 1, dim: this.width }
      : { heads: this.mainHeads, dim: this.mainDim }
  }
  /** Whether kernels decode pages by their layout, so that those of many pages are read in one pass. */
  get decodedByLayout(): boolean {
    return this.layout.kind !== 'custom' && this.parts.layers.length === 1
  }
  /** How many heads of `main` each stored row holds side by side; undefined where pages have their heads apart. */
  get mergedHeads(): number | undefined {
    return this.parts.quantizer?.mergedHeads ? this.mainHeads : undefined
  }
  /** Whether attention kernels read `main` as it is stored. */
  get fusedMain(): boolean {
    const { layout, mergedHeads, mainDim } = this
    if (this.parts.predictor || layout.kind === 'custom') return false
    return mergedHeads === undefined || (layout.kind === 'codebook' && readsMergedHeads(layout, mainDim))
  }
  /** Whether attention kernels read sealed rows as they are stored: they read `main`, and without a transform `main` are the rows. */
  get fused(): boolean {
    return this.fusedMain && !this.parts.transform
  }
  /** How many rows the quantizer takes together: 1 when each can be dropped alone. */
  get rowsPerGroup(): number {
    return this.parts.quantizer?.rowsPerGroup ?? 1
  }
  /** Whether rows are sealed in blocks that can only be freed whole. */
  get byBlocks(): boolean {
    return this.rowsPerGroup > 1 || this.parts.layers.length > 1
  }
  get fittedOnline(): boolean {
    return this.parts.transform?.fitted === 'prompt'
  }

  /** How many bits a value of this layer's rows takes when sealed, by formula. */
  get bitsPerValue(): number {
    const { heads, dim, quantizer, transform, layers } = this.parts
    const perValue = quantizer?.theoreticalBitsPerValue ?? HALF_BITS
    const main = (perValue * this.width) / layers.length
    const scales = transform && layers.length > 1 ? HALF_BITS * heads : 0
    return (main + scales) / (heads * dim)
  }

  /** Seals rows: f32 `[heads, n, dim]` of every layer of the group, less `prediction` `[n, width]` where there is one. The block is the caller's. */
  encode(members: readonly tf.Tensor[], state: Tensors, prediction: tf.Tensor | null): SealedBlock {
    const { transform, quantizer, store, heads } = this.parts
    const [rows] = members
    if (!rows) throw new Error('no rows to seal')
    const n = rows.shape[1] ?? 0
    let sealed: SealedBlock | null = null
    tf.tidy(() => {
      const encoded = transform ? transform.encode(members, state) : { main: rows }
      let main = encoded.main
      if (prediction) main = tf.expandDims(tf.sub(mergeHeads(main), prediction), 0)
      const block = quantizer ? quantizer.encode(quantizer.mergedHeads ? merged(main) : main) : dense(main, store)
      let scale: tf.Tensor | null = null
      if ('scale' in encoded && encoded.scale) {
        scale = allocateRows('f16', heads, n, encoded.scale.length)
        writeRows(scale, 'f16', 0, tf.stack([...encoded.scale], 2) as tf.Tensor3D)
      }
      this.checkBlock(block)
      // A stage may hand back what it was given, but sealed tensors must own their storage, so such a tensor is copied.
      const own = (t: tf.Tensor): tf.Tensor => (members.some((m) => m.dataId === t.dataId) ? tf.add(t, 0) : t)
      const stored = mapStored({ block, scale }, this.form, own)
      const exempt = 'exempt' in encoded && encoded.exempt ? encoded.exempt : null
      sealed = { stored, exempt }
      return exempt ? [...listStored(stored), exempt] : [...listStored(stored)]
    })
    if (!sealed) throw new Error('nothing was encoded')
    return sealed
  }

  /**
   * Decodes `main` f32 `[mainHeads, rows, mainDim]` of rows `from ... from + rows` of a page, and adds `prediction` `[rows, width]` where
   * there is one.
   */
  main(
    { block }: Stored<tf.Tensor>,
    capacity: number,
    from: number,
    rows: number,
    prediction: tf.Tensor | null,
  ): tf.Tensor3D {
    const { quantizer, store } = this.parts
    return tf.tidy(() => {
      let x: tf.Tensor
      if (quantizer) {
        const all = quantizer.decode(block, capacity)
        x = from === 0 && rows === capacity ? all : tf.slice(all, [0, from, 0], [-1, rows, -1])
      } else {
        const { heads, dim } = this.stored
        x = readRows(block['rows'] as tf.Tensor, store, dim, from, rows)
        if (x.shape[0] !== heads) throw new Error('a page of other heads')
      }
      return this.mainOf(x, prediction)
    })
  }

  /** Makes `main` f32 `[mainHeads, rows, mainDim]` of what a page holds, decoded `[stored.heads, rows, stored.dim]`. */
  mainOf(x: tf.Tensor, prediction: tf.Tensor | null): tf.Tensor3D {
    return tf.tidy(() => {
      const split = (rows: tf.Tensor) => splitHeads(rows, this.mainHeads) as tf.Tensor3D
      if (prediction) return split(tf.add(tf.squeeze(x, [0]), prediction))
      return x.shape[0] === this.mainHeads ? (x as tf.Tensor3D) : split(tf.squeeze(x, [0]))
    })
  }

  /** Makes rows f32 `[heads, n, dim]` from `main` and the scales that the page has for its rows `from ...`. */
  rows(main: tf.Tensor3D, scale: tf.Tensor | null, from: number, state: Tensors): tf.Tensor3D {
    const { transform, heads, layers, member } = this.parts
    if (!transform) return main
    return tf.tidy(() => {
      const { up, bias } = transform.decoder(state, member)
      let x: tf.Tensor = up ? expand(main, up, heads) : main
      if (scale) {
        const all = readRows(scale, 'f16', layers.length, from, main.shape[1])
        x = tf.mul(x, tf.slice(all as tf.Tensor3D, [0, 0, member], [-1, -1, 1]))
      }
      return (bias ? tf.add(x, bias) : x) as tf.Tensor3D
    })
  }

  /** @throws UnsupportedStage unless a block has the tensors that the quantizer names, and no others */
  private checkBlock(block: Tensors): void {
    const { fields } = this.form
    const found = Object.keys(block)
    if (found.length !== Object.keys(fields).length || found.some((name) => !fields[name]))
      throw new UnsupportedStage(
        this.parts.quantizerId,
        `it packed rows into { ${found.join(', ')} }, and its layout has { ${Object.keys(fields).join(', ')} }.`,
      )
  }
}

const dense = (main: tf.Tensor, store: RowStore): Tensors => {
  const [heads = 0, n = 0, dim = 0] = main.shape
  const rows = allocateRows(store, heads, n, dim)
  writeRows(rows, store, 0, main as tf.Tensor3D)
  return { rows }
}

const merged = (x: tf.Tensor): tf.Tensor => (x.shape[0] === 1 ? x : tf.expandDims(mergeHeads(x), 0))

/**
 * Multiplies main `[m, n, r]` by up `[m, r, w]` and splits each head of main into the heads that it stands for:
 * `[heads, n, m * w / heads]`. Plain 2-D products are fast on wasm.
 */
export function expand(main: tf.Tensor, up: tf.Tensor, heads: number): tf.Tensor3D {
  const [mainHeads = 0] = main.shape
  const perMain = heads / mainHeads
  const of = (t: tf.Tensor, i: number) =>
    tf.squeeze(mainHeads === 1 ? t : tf.slice(t as tf.Tensor3D, [i, 0, 0], [1, -1, -1]), [0]) as tf.Tensor2D
  const pieces = Array.from({ length: mainHeads }, (_, i) =>
    perMain === 1
      ? tf.expandDims(tf.matMul(of(main, i), of(up, i)), 0)
      : splitHeads(tf.matMul(of(main, i), of(up, i)), perMain),
  )
  return pieces.length === 1 ? (pieces[0] as tf.Tensor3D) : (tf.concat(pieces, 0) as tf.Tensor3D)
}
