/** openCache(): one sequence's cache, the life cycle begin / attend / commit / fork over its layers. */

import { hasNonFinite } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { checkCompressor, type ModelOrShape, shapeGiven } from '../arguments'
import { checkArtifacts, ready as pairWithArtifacts } from '../artifacts'
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
import { indexOrder, settleOrder } from './order'
import { Account } from './page'
import type { PartStore } from './part-store'
import { LARGEST_F32, planLayer, sourceLayers } from './plan'
import { TablePool } from './pool'
import { Reconstructor } from './reconstruct'
import { Rotary } from './rotary'
import { sealLayer } from './seal'
import { serializeCache } from './serialize'
import { ZONES } from './stored-rows'

/**
 * Opens an empty cache for a model. Lanes per head are decided here (ragged budgets). A compressor that needs no calibration
 * may be given as it is; one that does is paired with its artifacts by `ready()` or `calibrate()`.
 * @param given a loaded model, or its shape
 * @throws OptionError for anything else; NotCalibrated, ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError, ArtifactMismatch
 */
export function openCache(given: ModelOrShape, compressor: Ready | KVCompressor): KVCache {
  const model = shapeGiven('openCache', given)
  const ready = readyGiven('openCache', compressor)
  checkArtifacts(model, ready)
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  return cacheOf(model, ready, { layers, pool, account, tokens: [] })
}

/** @throws OptionError for anything but a compressor, with or without its artifacts; NotCalibrated */
export function readyGiven(where: string, given: Ready | KVCompressor): Ready {
  if (isReady(given)) return given
  checkCompressor(where, given)
  return pairWithArtifacts(given)
}

const isReady = (given: Ready | KVCompressor): given is Ready =>
  typeof given === 'object' && given !== null && 'ready' in given && given.ready

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

/** A step between `begin` and `commit`. */
interface OpenStep extends Step {
  /** Layers that have attended. */
  readonly done: Set<number>
  readonly incoming: Int32Array
}

/** Own rows that a later layer still has to read. */
interface Pending {
  readonly queries: tf.Tensor
  readonly own: NewRows
}

class Cache implements KVCache {
  private step: OpenStep | null = null
  /** Why no further step is possible; what is stored stays readable. */
  private broken: string | null = null
  private disposed = false
  /** What a call that has not ended yet is doing; nothing else may touch the cache meanwhile. */
  private busy: string | null = null
  /** Since so many tokens rows were only appended: a rollback may go back to there. */
  private settledTokens: number
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
    this.settledTokens = restored.settledTokens ?? this.tokens.length
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

  get contextLeft(): number {
    if (this.layers.every((l) => l.endless || l.plan.source !== l.plan.layer)) return Number.POSITIVE_INFINITY
    return Math.max(0, this.model.contextLength - this.positionsWith(0))
  }

  canTake(tokens: number): number {
    const most = Math.min(tokens, this.chunkLimit)
    const over = this.positionsWith(most) - this.model.contextLength
    if (over <= 0) return most
    // Where room is made, fewer tokens need less of it, but not one position less each.
    let [takes, refuses] = [0, most]
    while (refuses - takes > 1) {
      const middle = Math.floor((takes + refuses) / 2)
      if (this.positionsWith(middle) <= this.model.contextLength) takes = middle
      else refuses = middle
    }
    return takes
  }

  /** One more than the position that the last of `incoming` tokens would be read at, over all layers. */
  private positionsWith(incoming: number): number {
    return Math.max(0, ...this.layers.map((layer) => layer.positionsWith(incoming, this.tokensSeen)))
  }

  begin(tokens: Int32Array, phase: Phase): void {
    this.usable()
    checkStep(tokens, phase)
    if (this.step)
      throw new CacheStateError('begin() was called before commit() ended the last step. Call commit() first.')
    if (tokens.length > this.chunkLimit)
      throw new CacheStateError(
        `begin() was given ${tokens.length} tokens, this compressor takes at most ${this.chunkLimit} at once (chunkLimit). Use smaller chunks: canTake() says how many fit.`,
      )
    const positions = this.positionsWith(tokens.length)
    if (positions > this.model.contextLength) throw new ContextOverflow(positions, this.model.contextLength)
    for (const layer of this.layers) layer.room(tokens.length, this.tokensSeen)
    const seen = this.tokens
    let ids: Int32Array | null = null
    this.step = {
      phase,
      start: this.tokensSeen,
      count: tokens.length,
      rotation: new StepRotation(this.model.rope, this.tokensSeen, tokens.length),
      tokenIds() {
        if (ids) return ids
        ids = new Int32Array(seen.length + tokens.length)
        ids.set(seen)
        ids.set(tokens, seen.length)
        return ids
      },
      incoming: tokens.slice(),
      done: new Set(),
    }
  }

  rollback(tokens: number): void {
    this.usable()
    if (this.step) throw new CacheStateError('rollback() was called inside a step. Call commit() first.')
    const most = this.tokens.length - this.settledTokens
    if (!Number.isInteger(tokens) || tokens < 0 || tokens > most)
      throw new CacheStateError(
        `rollback() was asked to forget ${tokens} tokens, and ${most} of ${this.tokens.length} can be: before that ${this.compressor.card.name} ` +
          'sealed, dropped or looked at rows. Take a fork() before a step that may have to be undone, and go on from it.',
      )
    for (const layer of this.layers) for (const lane of layer.lanes) if (tokens > 0) lane.rollback(tokens)
    this.tokens.length -= tokens
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
    return this.exclusive(`attend(${layer})`, async () => {
      await this.checkFinite(layer, step, now.queries, 'queries', LARGEST_F32)
      const own = await this.ownRows(layer, step, now)
      try {
        const output = await this.attendStep(layer, source, now.queries, own, step)
        step.done.add(layer)
        return output
      } catch (error) {
        this.broken = `layer ${layer} failed: ${error instanceof Error ? error.message : String(error)}`
        throw error
      } finally {
        own?.rotated.dispose()
      }
    })
  }

  /** Runs a call that waits for the device, alone; a `dispose()` meanwhile is done at its end. */
  private async exclusive(name: string, run: () => Promise<tf.Tensor>): Promise<tf.Tensor> {
    this.busy = name
    try {
      const output = await run()
      if (!this.disposed) return output
      output.dispose()
      throw new CacheStateError(`This cache was disposed while ${name} ran. Open a new one.`)
    } finally {
      this.busy = null
      if (this.disposed) this.free()
    }
  }

  /** The rows that a layer brings, checked as they are stored; null when it reads another layer's. */
  private async ownRows(
    layer: number,
    step: OpenStep,
    now: { keys?: tf.Tensor; values?: tf.Tensor },
  ): Promise<NewRows | null> {
    const { keys, values } = now
    const { plan } = this.layerAt(layer)
    if (plan.source !== layer || !keys || !values) return null
    const rotated = step.rotation.rotate(keys)
    try {
      // Rotation makes a number up to the square root of two times larger, so keys are checked on the side they are stored on.
      const stored = plan.lanes[0]?.side === 'pre' ? keys : rotated
      await this.checkFinite(layer, step, stored, 'keys', plan.largest.keys)
      await this.checkFinite(layer, step, values, 'values', plan.largest.values)
    } catch (error) {
      rotated.dispose()
      throw error
    }
    return { keys, rotated, values, n: keys.shape[1] ?? 0 }
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
      const { keys, rotated, values, n } = own
      const copies = { keys: tf.clone(keys), rotated: tf.clone(rotated), values: tf.clone(values), n }
      this.pending.set(layer, { queries: tf.clone(queries), own: copies })
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
    if (rows) tf.dispose([rows.queries, rows.own.keys, rows.own.rotated, rows.own.values])
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
    if (this.layers.some((layer) => layer.changed)) this.settledTokens = this.tokens.length
    for (const layer of this.layers) layer.changed = false
    this.step = null
  }

  fork(): Cache {
    this.usable()
    if (this.step) throw new CacheStateError('fork() was called inside a step. Call commit() first.')
    const account = new Account()
    account.add(this.pool.bytes)
    return new Cache(this.model, this.ready, {
      layers: this.layers.map((l) => l.copy(account)),
      pool: this.pool.retain(),
      account,
      tokens: this.tokens,
      settledTokens: this.settledTokens,
    })
  }

  bytes(): ByteLedger {
    return ledgerOf(this.layers, this.account, this.pool, this.rotary)
  }

  census(layer: number): LayerCensus {
    return censusOf(this.layerAt(layer))
  }

  async materialize(layer: number, lane = 0): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
    if (this.disposed) throw new CacheStateError('This cache was disposed. Open a new one.')
    const { source } = this.layerAt(layer).plan
    const held = this.layerAt(source).lanes[lane]
    if (!held) throw new CacheStateError(`Layer ${layer} has no lane ${lane}.`)
    const total = held.rows
    const live = held.live
    const prediction = (part: Part) => this.reconstructor.ofSealed(source, part)
    const keys = held.rotatedKeys({ rotary: this.rotary, prediction })
    const values = held.values.read(prediction('values'))
    if (!this.step) this.reconstructor.forget(Number.POSITIVE_INFINITY)
    // Everything is read before the first wait, so that a step that begins meanwhile changes nothing of it.
    const tensor = held.positions.tensor()
    const flat = (await tensor.data()) as Int32Array
    tensor.dispose()
    const positions = held.shape.heads.map((_, h) =>
      flat.slice(h * total, (h + 1) * total).map((p, i) => (live?.[h]?.[i] === 0 ? -1 : p)),
    )
    return { keys, values, positions }
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
    // The bytes are read later, while this cache may go on: they are those of a fork taken now.
    const now = this.fork()
    return snapshot(serializeCache(this.model, this.ready, now.layers, now.tokens, now.settledTokens), () =>
      now.dispose(),
    )
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    if (!this.busy) this.free()
  }

  private free(): void {
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
    if (this.busy)
      throw new CacheStateError(
        `This cache is in the middle of ${this.busy}. Wait for its promise before the next call.`,
      )
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

  private async checkFinite(
    layer: number,
    step: OpenStep,
    tensor: tf.Tensor,
    what: 'queries' | 'keys' | 'values',
    limit: number,
  ): Promise<void> {
    const flag = hasNonFinite(tensor, limit)
    const [bad] = await flag.data()
    flag.dispose()
    if (!bad) return
    if (this.step === step && step.done.size === 0) this.abandon()
    else this.broken = `layer ${layer} was handed NaN, infinite or too large ${what}`
    throw new NonFiniteError(layer, what, limit)
  }
}

/** @throws CacheStateError unless tokens are ids and the phase is one that exists. */
function checkStep(tokens: Int32Array, phase: Phase): void {
  if (!(tokens instanceof Int32Array))
    throw new CacheStateError('begin() takes token ids as an Int32Array, as the tokenizer gives them.')
  if (tokens.length === 0) throw new CacheStateError('begin() was given no tokens. Give at least one.')
  if (!PHASES.includes(phase))
    throw new CacheStateError(`begin() was given the phase "${String(phase)}"; there are: ${PHASES.join(', ')}.`)
}
const PHASES: readonly Phase[] = ['prompt', 'promptEnd', 'decode']

/** An iterable whose `close` is called once, when it ends, fails or is left early. */
function snapshot<T>(chunks: AsyncGenerator<T>, close: () => void): AsyncIterable<T> {
  const ending = async (next: Promise<IteratorResult<T>>): Promise<IteratorResult<T>> => {
    try {
      const result = await next
      if (result.done) close()
      return result
    } catch (error) {
      close()
      throw error
    }
  }
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => ending(chunks.next()),
      return: async () => {
        close()
        return chunks.return(undefined)
      },
    }),
  }
}
