/** openCache(): one sequence's cache, the life cycle begin / attend / commit / fork over its layers. */

import { hasNonFinite } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { checkArtifacts } from '../calibrate'
import type {
  ByteLedger,
  KVCache,
  KVCompressor,
  LaneView,
  LayerCensus,
  ModelShape,
  Part,
  Phase,
  Ready,
} from '../contract'
import { CacheStateError, ContextOverflow, ModelMismatch, NonFiniteError } from '../errors'
import { StepRotation } from '../rope'
import type { RestoredCache } from './file-format'
import type { LaneContext, NewRows } from './lane'
import { LayerCache, type Step } from './layer'
import { censusOf, ledgerOf } from './ledger'
import { Account } from './page'
import type { PartStore } from './part-store'
import { type LayerPlan, planLayer, sourceLayers } from './plan'
import { TablePool } from './pool'
import { Reconstructor } from './reconstruct'
import { Rotary } from './rotary'
import { sealLayer } from './seal'
import { serializeCache } from './serialize'
import { ZONES } from './stored-rows'

/**
 * Opens an empty cache for a model. Lanes per head are decided here (ragged budgets).
 * @throws ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError, ArtifactMismatch
 */
export function openCache(model: ModelShape, ready: Ready): KVCache {
  checkArtifacts(model, ready)
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  return cacheOf(model, ready, { layers, pool, account, tokens: [] })
}

/** Empty layers, bound to their stages. */
export function openLayers(model: ModelShape, ready: Ready, account: Account) {
  const pool = new TablePool()
  try {
    const sources = sourceLayers(model, ready)
    const plans = sources.map((_, layer) => planLayer(model, ready, layer, sources, pool.hold))
    account.add(pool.bytes)
    return { layers: plans.map((plan) => new LayerCache(plan, account)), pool }
  } catch (error) {
    pool.release()
    throw error
  }
}

/** For restoring: a cache over layers that are filled already. */
export function cacheOf(model: ModelShape, ready: Ready, restored: RestoredCache): KVCache {
  return new Cache(model, ready, restored)
}

/** Own rows that a later layer still has to read. */
interface Pending {
  readonly queries: tf.Tensor
  readonly own: NewRows
}

class Cache implements KVCache {
  private step: (Step & { readonly done: Set<number>; readonly incoming: Int32Array }) | null = null
  /** Why no further step is possible; what is stored stays readable. */
  private broken: string | null = null
  private disposed = false
  private readonly layers: readonly LayerCache[]
  private readonly pool: TablePool
  private readonly account: Account
  private readonly rotary: Rotary
  private readonly reconstructor: Reconstructor
  /** Layers to settle once layer i has attended, in order. */
  private readonly settles: readonly (readonly number[])[]
  /** Layers to index once layer i has sealed: a group's rows are sealed with its last layer. */
  private readonly indexes: readonly (readonly number[])[]
  private readonly pending = new Map<number, Pending>()
  /** The tokens seen so far, dropped ones included. */
  private readonly tokens: number[]

  constructor(
    readonly model: ModelShape,
    private readonly ready: Ready,
    restored: RestoredCache,
  ) {
    this.layers = restored.layers
    this.pool = restored.pool
    this.account = restored.account
    this.tokens = [...restored.tokens]
    this.rotary = new Rotary(model.rope, this.account)
    this.reconstructor = new Reconstructor(this.layers, this.account)
    this.settles = settleOrder(this.layers.map((l) => l.plan))
    this.indexes = indexOrder(this.layers.map((l) => l.plan))
  }

  get compressor(): KVCompressor {
    return this.ready.compressor
  }
  get tokensSeen(): number {
    return this.tokens.length
  }
  get chunkLimit(): number {
    return Math.min(...this.layers.map((l) => l.chunkLimit))
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
    for (const layer of this.layers) layer.room(tokens.length, this.tokensSeen)
    const seen = this.tokens
    this.step = {
      phase,
      start: this.tokensSeen,
      count: tokens.length,
      rotation: new StepRotation(this.model.rope, this.tokensSeen, tokens.length),
      get tokenIds() {
        return Int32Array.from([...seen, ...tokens])
      },
      incoming: tokens,
      done: new Set(),
    }
  }

  private checkContext(layer: LayerCache, incoming: number): void {
    const { pick, resample } = layer.plan
    if (resample) return
    const renumbers = pick?.does.positions === 'slot' && pick.when === 'room'
    const positions = renumbers
      ? Math.min(...layer.lanes.map((lane) => pick.does.count(lane.liveRows, incoming))) + incoming
      : this.tokensSeen + incoming
    if (positions > this.model.contextLength) throw new ContextOverflow(positions, this.model.contextLength)
  }

  sourceLayer(layer: number): number {
    return this.layerAt(layer).plan.source
  }

  async attend(layer: number, now: { queries: tf.Tensor; keys?: tf.Tensor; values?: tf.Tensor }): Promise<tf.Tensor> {
    this.usable()
    const step = this.step
    if (!step) throw new CacheStateError(`attend(${layer}) was called outside a step. Call begin() first.`)
    const { source } = this.layerAt(layer).plan
    if (step.done.has(layer)) throw new CacheStateError(`attend(${layer}) was called twice in one step.`)
    if (source !== layer && !step.done.has(source))
      throw new CacheStateError(`attend(${layer}) reads layer ${source}, which has not attended in this step.`)
    this.checkShapes(layer, step.count, now)
    const own = await this.ownRows(layer, now)
    try {
      const output = await this.attendStep(layer, source, now.queries, own, step)
      step.done.add(layer)
      return output
    } catch (error) {
      this.broken = `layer ${layer} failed: ${error instanceof Error ? error.message : String(error)}`
      throw error
    }
  }

  /** The rows that a layer brings, checked; null when it reads another layer's. */
  private async ownRows(layer: number, now: { keys?: tf.Tensor; values?: tf.Tensor }): Promise<NewRows | null> {
    const { keys, values } = now
    if (this.layerAt(layer).plan.source !== layer || !keys || !values) return null
    await this.checkFinite(layer, { keys, values })
    return { keys, values, n: keys.shape[1] ?? 0 }
  }

  private async attendStep(
    layer: number,
    source: number,
    queries: tf.Tensor,
    own: NewRows | null,
    step: Step,
  ): Promise<tf.Tensor> {
    const cache = this.layerAt(source)
    const context = this.contextOf(source, step.rotation)
    const storesFirst = this.compressor.ownRows === 'stored'
    if (own && storesFirst) {
      cache.append(own, step)
      if (!cache.frozen(step)) await sealLayer(cache, this.layers, this.reconstructor, step.phase === 'promptEnd')
    }
    const exact = storesFirst ? null : (own ?? this.pending.get(source)?.own ?? null)
    const output = await cache.attend(queries, exact, storesFirst ? step.count : 0, context)
    const due = this.settles[layer] ?? []
    if (own && !due.includes(layer)) {
      const copies = { queries: tf.clone(queries), keys: tf.clone(own.keys), values: tf.clone(own.values) }
      this.pending.set(layer, { queries: copies.queries, own: { keys: copies.keys, values: copies.values, n: own.n } })
    }
    for (const l of due) {
      const rows = l === layer && own ? { queries, own } : this.pending.get(l)
      if (!rows) throw new Error(`layer ${l} has no rows to settle`)
      await this.settle(this.layerAt(l), rows, step, storesFirst)
      this.release(l)
    }
    this.reconstructor.forget(source)
    return output
  }

  /** Stores a layer's rows, evicts, seals and indexes. */
  private async settle(cache: LayerCache, { queries, own }: Pending, step: Step, stored: boolean): Promise<void> {
    const context = this.contextOf(cache.plan.layer, step.rotation)
    if (!stored) cache.append(own, step)
    await cache.settle(queries, step, context)
    if (!cache.frozen(step)) await sealLayer(cache, this.layers, this.reconstructor, step.phase === 'promptEnd')
    for (const l of this.indexes[cache.plan.layer] ?? [])
      await this.layerAt(l).index(step, this.contextOf(l, step.rotation))
  }

  private release(layer: number): void {
    const rows = this.pending.get(layer)
    if (rows) tf.dispose([rows.queries, rows.own.keys, rows.own.values])
    this.pending.delete(layer)
  }

  private contextOf(layer: number, rotation: StepRotation): LaneContext {
    return {
      rotation,
      rotary: this.rotary,
      prediction: (part) => this.reconstructor.ofSealed(layer, part),
    }
  }

  async read(layer: number, queries: tf.Tensor): Promise<tf.Tensor> {
    this.usable()
    const n = queries.shape[1] ?? 0
    const rotation = new StepRotation(this.model.rope, this.tokensSeen - n, n)
    const { source } = this.layerAt(layer).plan
    const cache = this.layerAt(source)
    try {
      return await cache.attend(queries, null, Math.min(n, cache.lanes[0]?.rows ?? 0), this.contextOf(source, rotation))
    } finally {
      rotation.dispose()
      if (!this.step) this.reconstructor.forget(Number.POSITIVE_INFINITY)
    }
  }

  async commit(): Promise<void> {
    this.usable()
    const step = this.step
    if (!step) throw new CacheStateError('commit() was called outside a step. Call begin() first.')
    if (step.done.size !== this.layers.length)
      throw new CacheStateError(`commit() was called after ${step.done.size} of ${this.layers.length} layers attended.`)
    for (const layer of this.layers) for (const lane of layer.lanes) lane.reclaim()
    step.rotation.dispose()
    this.reconstructor.forget(Number.POSITIVE_INFINITY)
    for (const token of step.incoming) this.tokens.push(token)
    this.step = null
  }

  fork(): KVCache {
    this.usable()
    if (this.step) throw new CacheStateError('fork() was called inside a step. Call commit() first.')
    const account = new Account()
    account.add(this.pool.bytes)
    return new Cache(this.model, this.ready, {
      layers: this.layers.map((l) => l.copy(account)),
      pool: this.pool.retain(),
      account,
      tokens: this.tokens,
    })
  }

  bytes(): ByteLedger {
    return ledgerOf(this.layers, this.account, this.pool, this.rotary)
  }

  census(layer: number): LayerCensus {
    return censusOf(this.layerAt(layer))
  }

  async materialize(layer: number, lane = 0): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
    const held = this.layerAt(this.layerAt(layer).plan.source).lanes[lane]
    if (!held) throw new CacheStateError(`Layer ${layer} has no lane ${lane}.`)
    const tensor = held.positions.tensor()
    const flat = (await tensor.data()) as Int32Array
    const total = held.rows
    tensor.dispose()
    const positions = held.shape.heads.map((_, h) =>
      flat.slice(h * total, (h + 1) * total).map((p, i) => (held.live?.[h]?.[i] === 0 ? -1 : p)),
    )
    const { source } = this.layerAt(layer).plan
    const prediction = (part: Part) => this.reconstructor.ofSealed(source, part)
    const rows = {
      keys: held.rotatedKeys({ rotary: this.rotary, prediction }),
      values: held.values.read(prediction('values')),
      positions,
    }
    if (!this.step) this.reconstructor.forget(Number.POSITIVE_INFINITY)
    return rows
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
    return serializeCache(this.model, this.ready, this.layers, this.tokens)
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    this.step?.rotation.dispose()
    for (const layer of [...this.pending.keys()]) this.release(layer)
    this.reconstructor.forget(Number.POSITIVE_INFINITY)
    for (const layer of this.layers) layer.dispose()
    this.rotary.dispose()
    this.pool.release()
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

  private checkShapes(
    layer: number,
    n: number,
    now: { queries: tf.Tensor; keys?: tf.Tensor; values?: tf.Tensor },
  ): void {
    const { queryHeads, kvHeads, keyDim, valueDim } = this.model
    const expected = { queries: [queryHeads, n, keyDim], keys: [kvHeads, n, keyDim], values: [kvHeads, n, valueDim] }
    const shared = this.layerAt(layer).plan.source !== layer
    for (const part of ['queries', 'keys', 'values'] as const) {
      const given = now[part]
      if (shared && part !== 'queries') continue
      if (!given || !tf.util.arraysEqual(given.shape, expected[part]))
        throw new ModelMismatch(
          'attend()',
          `layer ${layer} was handed ${part} of shape [${given?.shape.join(', ') ?? 'none'}].`,
          `Give [${expected[part].join(', ')}].`,
        )
    }
  }

  private async checkFinite(layer: number, now: { keys: tf.Tensor; values: tf.Tensor }): Promise<void> {
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

/**
 * When each layer stores this step's rows: as soon as the last layer that reads them has attended; a predicted layer not before
 * its source, the last layer of a group not before the others.
 */
function settleOrder(plans: readonly LayerPlan[]): readonly (readonly number[])[] {
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
function indexOrder(plans: readonly LayerPlan[]): readonly (readonly number[])[] {
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
