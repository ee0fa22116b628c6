/**
 * The plainest cache that fits the contract: every row stays, in f32, and attention is written with ordinary tfjs operations. It is here to be
 * read first, and to be the witness of the engine's tests. What a cache may be asked besides (forks, files, bytes) it leaves out.
 */
import {
  type ByteLedger,
  ContextOverflow,
  type KVCache,
  type KVCompressor,
  type LaneView,
  type LayerCensus,
  type ModelShape,
  type Phase,
} from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'

const plain: KVCompressor = {
  card: { name: 'dense-witness', title: 'Dense witness', summary: 'Everything, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** What a layer hands over: queries, keys and values, or queries alone where it reads another layer's rows. */
export type Incoming = Parameters<KVCache['attend']>[1]

interface Rows {
  keys: tf.Tensor
  values: tf.Tensor
}

/** Keeps keys after RoPE and values of every token, `[kvHeads, tokens, dim]` per layer. */
export class DenseCache implements KVCache {
  readonly compressor = plain
  readonly chunkLimit = Infinity
  readonly phases: Phase[] = []
  tokensSeen = 0
  private incoming = 0
  private readonly layers: (Rows | undefined)[] = []

  /** @param sources for layers that keep no rows, the earlier layer whose rows they read */
  constructor(
    readonly model: ModelShape,
    private readonly sources?: Readonly<Record<number, number>>,
  ) {}

  get contextLeft(): number {
    return this.model.contextLength - this.tokensSeen
  }
  canTake(tokens: number): number {
    return Math.min(tokens, this.contextLeft)
  }

  begin(tokens: Int32Array, phase: Phase): void {
    const positions = this.tokensSeen + tokens.length
    if (positions > this.model.contextLength) throw new ContextOverflow(positions, this.model.contextLength)
    this.phases.push(phase)
    this.incoming = tokens.length
  }

  sourceLayer(layer: number): number {
    return this.sources?.[layer] ?? layer
  }

  async attend(layer: number, now: Incoming): Promise<tf.Tensor> {
    const rows = this.sourceLayer(layer) === layer ? this.append(layer, now) : this.layers[this.sourceLayer(layer)]
    if (!rows) throw new Error(`layer ${layer} reads layer ${this.sourceLayer(layer)}, which has no rows yet`)
    return tf.tidy(() => this.attention(this.rotate(now.queries), rows))
  }

  private append(layer: number, { keys, values }: Incoming): Rows {
    if (!keys || !values) throw new Error(`layer ${layer} keeps its own rows and was handed none`)
    const before = this.layers[layer]
    const rows = tf.tidy(() => {
      const rotated = this.rotate(keys)
      if (!before) return { keys: rotated, values: tf.clone(values) }
      return { keys: tf.concat([before.keys, rotated], 1), values: tf.concat([before.values, values], 1) }
    })
    if (before) tf.dispose([before.keys, before.values])
    this.layers[layer] = rows
    return rows
  }

  /** Returns softmax(q kᵀ · scale + causal mask) v, `[queryHeads, n, valueDim]`. Query head h reads KV head floor(h / group). */
  private attention(queries: tf.Tensor, { keys, values }: Rows): tf.Tensor {
    const { queryHeads, kvHeads, attentionScale } = this.model
    const group = queryHeads / kvHeads
    const total = this.tokensSeen + this.incoming
    const head = Int32Array.from({ length: queryHeads }, (_, h) => Math.floor(h / group))
    const mask = Float32Array.from({ length: this.incoming * total }, (_, i) =>
      i % total <= this.tokensSeen + Math.floor(i / total) ? 0 : -1e30,
    )
    const scores = tf.matMul(queries, tf.gather(keys, head), false, true)
    const masked = tf.add(tf.mul(scores, attentionScale), tf.tensor3d(mask, [1, this.incoming, total]))
    return tf.matMul(tf.softmax(masked), tf.gather(values, head))
  }

  /** Rotates `x` `[heads, n, dim]` at the positions of this step: RoPE over pairs of channels (j, j + dim / 2). */
  private rotate(x: tf.Tensor): tf.Tensor {
    const { rope } = this.model
    if (!rope) return tf.clone(x)
    const [, n = 0, dim = 0] = x.shape
    const half = rope.dim / 2
    const table = (wave: (angle: number) => number) =>
      tf.tensor3d(
        Float32Array.from(
          { length: n * half },
          (_, i) =>
            wave(Math.fround((this.tokensSeen + Math.floor(i / half)) * (rope.frequencies[i % half] ?? 0))) *
            rope.attentionFactor,
        ),
        [1, n, half],
      )
    const [cos, sin] = [table(Math.cos), table(Math.sin)]
    const low = tf.slice(x, [0, 0, 0], [-1, -1, half])
    const high = tf.slice(x, [0, 0, half], [-1, -1, half])
    const rest = tf.slice(x, [0, 0, rope.dim], [-1, -1, dim - rope.dim])
    const rotated = [tf.sub(tf.mul(low, cos), tf.mul(high, sin)), tf.add(tf.mul(high, cos), tf.mul(low, sin))]
    return tf.concat(rope.dim < dim ? [...rotated, rest] : rotated, 2)
  }

  async commit(): Promise<void> {
    this.tokensSeen += this.incoming
    this.incoming = 0
  }

  async materialize(layer: number): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
    const rows = this.layers[layer]
    if (!rows) throw new Error(`nothing stored in layer ${layer}`)
    const positions = Array.from({ length: this.model.kvHeads }, () =>
      Int32Array.from({ length: this.tokensSeen }, (_, i) => i),
    )
    return { keys: tf.clone(rows.keys), values: tf.clone(rows.values), positions }
  }

  dispose(): void {
    for (const rows of this.layers.splice(0)) if (rows) tf.dispose([rows.keys, rows.values])
  }

  read(): Promise<tf.Tensor> {
    throw new Error('the plainest cache leaves this out')
  }
  rollback(): void {
    throw new Error('the plainest cache leaves this out')
  }

  fork(): KVCache {
    throw new Error('the plainest cache leaves this out')
  }
  bytes(): ByteLedger {
    throw new Error('the plainest cache leaves this out')
  }
  census(): LayerCensus {
    throw new Error('the plainest cache leaves this out')
  }
  segments(): readonly LaneView[] {
    throw new Error('the plainest cache leaves this out')
  }
  serialize(): AsyncIterable<Uint8Array> {
    throw new Error('the plainest cache leaves this out')
  }
}
