/** openCache(): one sequence's cache, the life cycle begin / attend / commit / fork over its layers. */

import { hasNonFinite } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { ByteLedger, KVCache, KVCompressor, LaneView, LayerCensus, ModelShape, Phase, Ready } from '../contract'
import { CacheStateError, ContextOverflow, ModelMismatch, NonFiniteError } from '../errors'
import { StepRotation } from '../rope'
import type { RestoredCache } from './file-format'
import { LayerCache, type Step } from './layer'
import { censusOf, ledgerOf } from './ledger'
import { Account, bytesOf } from './page'
import { type PartStore, ZONES } from './part-store'
import { planLayer } from './plan'
import { serializeCache } from './serialize'

/**
 * Opens an empty cache for a model. Lanes per head are decided here (ragged budgets).
 * @throws ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError
 */
export function openCache(model: ModelShape, ready: Ready): KVCache {
  const plans = Array.from({ length: model.layers }, (_, layer) => planLayer(model, ready, layer))
  const account = new Account()
  return new Cache(
    model,
    ready,
    plans.map((plan) => new LayerCache(plan, account)),
    account,
    0,
  )
}

/** For restoring: a cache over layers that are filled already. */
export function cacheOf(model: ModelShape, ready: Ready, restored: RestoredCache): KVCache {
  return new Cache(model, ready, restored.layers, restored.account, restored.tokensSeen)
}

class Cache implements KVCache {
  private step: (Step & { readonly done: Set<number> }) | null = null
  /** Why no further step is possible; what is stored stays readable. */
  private broken: string | null = null
  private disposed = false

  constructor(
    readonly model: ModelShape,
    private readonly ready: Ready,
    private readonly layers: readonly LayerCache[],
    private readonly account: Account,
    private seen: number,
  ) {}

  get compressor(): KVCompressor {
    return this.ready.compressor
  }
  get tokensSeen(): number {
    return this.seen
  }
  get chunkLimit(): number {
    return Math.min(...this.layers.map((l) => l.plan.pick?.does.chunkLimit ?? Number.POSITIVE_INFINITY))
  }

  begin(tokens: Int32Array, phase: Phase): void {
    this.usable()
    if (this.step)
      throw new CacheStateError('begin() was called before commit() ended the last step. Call commit() first.')
    if (tokens.length === 0) throw new CacheStateError('begin() was given no tokens. Give at least one.')
    if (tokens.length > this.chunkLimit)
      throw new CacheStateError(
        `begin() was given ${tokens.length} tokens, this compressor takes at most ${this.chunkLimit} at once (chunkLimit). Use smaller chunks.`,
      )
    for (const layer of this.layers) this.checkContext(layer, tokens.length)
    for (const layer of this.layers) layer.room(tokens.length)
    this.step = {
      phase,
      start: this.seen,
      count: tokens.length,
      rotation: new StepRotation(this.model.rope, this.seen, tokens.length),
      done: new Set(),
    }
  }

  private checkContext(layer: LayerCache, incoming: number): void {
    const { pick } = layer.plan
    const renumbers = pick?.does.positions === 'slot' && pick.when === 'room'
    const positions = renumbers
      ? Math.min(...layer.lanes.map((lane) => pick.does.count(lane.liveRows, incoming))) + incoming
      : this.seen + incoming
    if (positions > this.model.contextLength) throw new ContextOverflow(positions, this.model.contextLength)
  }

  async attend(layer: number, now: { queries: tf.Tensor; keys: tf.Tensor; values: tf.Tensor }): Promise<tf.Tensor> {
    this.usable()
    const step = this.step
    if (!step) throw new CacheStateError(`attend(${layer}) was called outside a step. Call begin() first.`)
    const cache = this.layerAt(layer)
    if (step.done.has(layer)) throw new CacheStateError(`attend(${layer}) was called twice in one step.`)
    this.checkShapes(layer, step.count, now)
    await this.checkFinite(layer, now)
    const keys = step.rotation.rotate(now.keys)
    try {
      const output = cache.attend(now.queries, { keys, values: now.values, n: step.count }, step.rotation)
      cache.append(keys, now.values, step)
      await cache.settle(now.queries, step)
      step.done.add(layer)
      return output
    } catch (error) {
      this.broken = `layer ${layer} failed: ${error instanceof Error ? error.message : String(error)}`
      throw error
    } finally {
      keys.dispose()
    }
  }

  async read(layer: number, queries: tf.Tensor): Promise<tf.Tensor> {
    this.usable()
    const n = queries.shape[1] ?? 0
    const rotation = new StepRotation(this.model.rope, this.seen - n, n)
    const output = this.layerAt(layer).attend(queries, null, rotation)
    rotation.dispose()
    return output
  }

  async commit(): Promise<void> {
    this.usable()
    const step = this.step
    if (!step) throw new CacheStateError('commit() was called outside a step. Call begin() first.')
    if (step.done.size !== this.layers.length)
      throw new CacheStateError(`commit() was called after ${step.done.size} of ${this.layers.length} layers attended.`)
    for (const layer of this.layers) for (const lane of layer.lanes) lane.reclaim()
    step.rotation.dispose()
    this.seen += step.count
    this.step = null
  }

  fork(): KVCache {
    this.usable()
    if (this.step) throw new CacheStateError('fork() was called inside a step. Call commit() first.')
    const account = new Account()
    return new Cache(
      this.model,
      this.ready,
      this.layers.map((l) => l.copy(account)),
      account,
      this.seen,
    )
  }

  bytes(): ByteLedger {
    return ledgerOf(
      this.layers,
      this.account,
      this.ready.artifacts.flatMap((a) => Object.values(a.tensors)).reduce((n, t) => n + bytesOf(t), 0),
    )
  }

  census(layer: number): LayerCensus {
    return censusOf(this.layerAt(layer))
  }

  async materialize(layer: number, lane = 0): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
    const held = this.layerAt(layer).lanes[lane]
    if (!held) throw new CacheStateError(`Layer ${layer} has no lane ${lane}.`)
    const tensor = held.positions.tensor()
    const flat = (await tensor.data()) as Int32Array
    const rows = held.rows
    tensor.dispose()
    const positions = held.shape.heads.map((_, h) =>
      flat.slice(h * rows, (h + 1) * rows).map((p, i) => (held.live?.[h]?.[i] === 0 ? -1 : p)),
    )
    return { keys: held.keys.read(), values: held.values.read(), positions }
  }

  segments(layer: number): readonly LaneView[] {
    const views = (part: PartStore) =>
      ZONES.flatMap((zone) =>
        part.zones[zone].map((v) => ({
          zone,
          tensors: v.page.tensors,
          from: v.from,
          rows: v.rows,
          capacity: v.page.capacity,
          layout: v.page.layout,
        })),
      )
    return this.layerAt(layer).lanes.map((lane) => ({
      heads: lane.shape.heads,
      keys: views(lane.keys),
      values: views(lane.values),
    }))
  }

  serialize(): AsyncIterable<Uint8Array> {
    this.usable()
    if (this.step) throw new CacheStateError('serialize() was called inside a step. Call commit() first.')
    return serializeCache(this.model, this.ready, this.layers, this.seen)
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    this.step?.rotation.dispose()
    for (const layer of this.layers) layer.dispose()
  }

  /** Nothing of this step was stored: forget that it began. */
  private abandon(): void {
    this.step?.rotation.dispose()
    this.step = null
  }

  private layerAt(layer: number): LayerCache {
    const cache = this.layers[layer]
    if (!cache) throw new CacheStateError(`There is no layer ${layer}; the model has ${this.layers.length}.`)
    return cache
  }

  private usable(): void {
    if (this.disposed) throw new CacheStateError('This cache was disposed. Open a new one.')
    if (this.broken)
      throw new CacheStateError(
        `This cache stopped in the middle of a step (${this.broken}). What is stored can be read by materialize(); go on from a fork() taken before.`,
      )
  }

  private checkShapes(layer: number, n: number, now: { queries: tf.Tensor; keys: tf.Tensor; values: tf.Tensor }): void {
    const { queryHeads, kvHeads, keyDim, valueDim } = this.model
    const expected = { queries: [queryHeads, n, keyDim], keys: [kvHeads, n, keyDim], values: [kvHeads, n, valueDim] }
    for (const part of ['queries', 'keys', 'values'] as const)
      if (!tf.util.arraysEqual(now[part].shape, expected[part]))
        throw new ModelMismatch(
          'attend()',
          `layer ${layer} was handed ${part} of shape [${now[part].shape.join(', ')}].`,
          `Give [${expected[part].join(', ')}].`,
        )
  }

  private async checkFinite(
    layer: number,
    now: { queries: tf.Tensor; keys: tf.Tensor; values: tf.Tensor },
  ): Promise<void> {
    for (const part of ['keys', 'values'] as const) {
      const limit = this.layerAt(layer).plan.largest[part]
      const flag = hasNonFinite(now[part], limit)
      const [bad] = await flag.data()
      flag.dispose()
      if (bad) {
        if (this.step?.done.size === 0) this.abandon()
        else this.broken = `layer ${layer} was handed NaN or infinite ${part}`
        throw new NonFiniteError(layer, part, limit)
      }
    }
  }
}
