/**
 * One sequence's cache: its life cycle of begin, attend, commit and fork. What a step does with the rows of a layer stands in step.ts. The file
 * passes 300 lines because every call of the contract stands here once; what each of them checks is in check-turn.ts and check-step.ts.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type {
  ByteLedger,
  KVCache,
  KVCompressor,
  LaneView,
  LayerCensus,
  ModelShape,
  Part,
  PendingReplay,
  Phase,
  Ready,
} from '../contract'
import { CacheStateError, ContextOverflow, NonFiniteError } from '../errors'
import { Account } from './account'
import { checkShapes, checkTokens, firstStrange, type Given, limitedBy } from './check-step'
import { checkBegin, checkBetweenSteps, checkCommit, checkRollback, checkTurn } from './check-turn'
import { reclaim } from './drop'
import { serializeCache } from './file/serialize'
import { Guard } from './guard'
import { materialized, segmentViews } from './inspect'
import type { NewRows } from './lane'
import type { LayerCache, Step } from './layer'
import { censusOf, ledgerOf } from './ledger'
import type { TablePool } from './pool'
import { Reconstructor } from './reconstruct'
import { type Measuring, WaitingReplay } from './replay'
import { chunkLimitOf, contextCureOf, isEndless, mostThatFit, positionsWith, roomFor } from './room'
import { Rotary } from './rotary'
import { snapshot } from './snapshot'
import { Recipe } from './step'
import { StepState, tokensUpTo } from './step-state'

/** What a cache begins with. */
export interface Contents {
  readonly layers: readonly LayerCache[]
  readonly pool: TablePool
  readonly account: Account
  readonly tokens: readonly number[]
  /** How many tokens had been seen when something else than appending last happened to rows. Default: all of them. */
  readonly settledTokens?: number
  /** A pass over the context of another cache that this copy of it measures. */
  readonly measuring?: Measuring
}

/** A step between `begin` and `commit`. */
interface OpenStep extends Step {
  /** The layers that have attended. */
  readonly done: Set<number>
  readonly incoming: Int32Array
  /** Makes room for the step's rows, once the first layer's numbers were found to be good. */
  readonly room: readonly (() => void)[]
}

export class Cache implements KVCache {
  private step: OpenStep | null = null
  private readonly guard = new Guard(() => this.free())
  /** How many tokens had been seen when something else than appending last happened to rows. A rollback may go back to there. */
  private settledTokens: number
  private readonly layers: readonly LayerCache[]
  private readonly pool: TablePool
  private readonly account: Account
  private readonly rotary: Rotary
  private readonly reconstructor: Reconstructor
  private readonly recipe: Recipe
  /** A step whose evictions wait until the model has read its context again. */
  private awaiting: { readonly step: Step; readonly replay: PendingReplay } | null = null
  /** The tokens seen so far, dropped ones included. */
  private readonly tokens: number[]

  constructor(
    readonly model: ModelShape,
    private readonly ready: Ready,
    contents: Contents,
  ) {
    this.layers = contents.layers
    this.pool = contents.pool
    this.account = contents.account
    this.tokens = [...contents.tokens]
    this.settledTokens = contents.settledTokens ?? this.tokens.length
    this.rotary = new Rotary(model.rope, this.account)
    this.reconstructor = new Reconstructor(this.layers, this.account)
    this.recipe = new Recipe(
      this.layers,
      this.reconstructor,
      this.rotary,
      this.compressor.ownRows === 'stored',
      contents.measuring,
    )
  }

  get compressor(): KVCompressor {
    return this.ready.compressor
  }
  get tokensSeen(): number {
    return this.tokens.length
  }
  get chunkLimit(): number {
    return Math.min(...this.layers.map(chunkLimitOf))
  }

  get contextLeft(): number {
    const { contextLength } = this.model
    if (this.layers.every((layer) => isEndless(layer, contextLength))) return Number.POSITIVE_INFINITY
    return Math.max(0, contextLength - this.positionsWith(0))
  }
  get contextCure(): string | undefined {
    return contextCureOf(this.layers, this.model, this.compressor.stages)
  }

  canTake(tokens: number): number {
    const most = Math.min(tokens, this.chunkLimit)
    return mostThatFit(most, (n) => this.positionsWith(n) <= this.model.contextLength)
  }

  /** How many positions the context must have for `incoming` more tokens, over all layers. */
  private positionsWith(incoming: number): number {
    return Math.max(0, ...this.layers.map((layer) => positionsWith(layer, incoming, this.tokensSeen)))
  }

  begin(tokens: Int32Array, phase: Phase): void {
    this.guard.check()
    checkTokens(tokens, phase)
    checkBegin(this.step, tokens.length, this.chunkLimit)
    const positions = this.positionsWith(tokens.length)
    const { contextLength } = this.model
    if (positions > contextLength) throw new ContextOverflow(positions, contextLength, this.contextCure)
    this.step = {
      phase,
      start: this.tokensSeen,
      count: tokens.length,
      state: new StepState(this.model.rope, this.tokensSeen, tokens.length),
      tokenIds: tokensUpTo(this.tokens, tokens),
      incoming: tokens.slice(),
      room: this.layers.flatMap((layer) => roomFor(layer, tokens.length, this.tokensSeen)),
      done: new Set(),
    }
  }

  rollback(tokens: number): void {
    this.guard.check()
    checkBetweenSteps('rollback()', this.step)
    checkRollback(tokens, this.tokens.length, this.settledTokens, this.compressor.card.name)
    for (const layer of this.layers) for (const lane of layer.lanes) if (tokens > 0) lane.rollback(tokens)
    this.tokens.length -= tokens
  }

  sourceLayer(layer: number): number {
    return this.layerAt(layer).plan.source
  }

  wantsHidden(layer: number): boolean {
    return this.layerAt(layer).plan.hidden > 0
  }

  async attend(layer: number, now: Given): Promise<tf.Tensor> {
    this.guard.check()
    const { source } = this.layerAt(layer).plan
    const step = checkTurn(this.step, layer, source)
    const wants = this.wantsHidden(layer)
    checkShapes(this.model, layer, source !== layer, step.count, now, wants)
    const watched = { queries: now.queries, hidden: (wants && now.hidden) || null }
    return this.guard.alone(`attend(${layer})`, async () => {
      const own = this.ownRows(layer, step, now)
      try {
        await this.checkNumbers(layer, step, now, own)
        const output = await this.guard.breaking(`layer ${layer}`, () => {
          if (step.done.size === 0) for (const make of step.room) make()
          return this.recipe.attendLayer(layer, watched, own, step)
        })
        step.done.add(layer)
        return output
      } finally {
        own?.rotated.dispose()
      }
    })
  }

  /** The rows that a layer brings, or null when it reads another layer's. */
  private ownRows(layer: number, { state }: Step, { keys, values }: Given): NewRows | null {
    if (this.layerAt(layer).plan.source !== layer || !keys || !values) return null
    return { keys, rotated: state.rotation.rotate(keys), values, n: keys.shape[1] ?? 0 }
  }

  /** @throws NonFiniteError before anything of the layer is stored */
  private async checkNumbers(layer: number, step: OpenStep, { queries }: Given, own: NewRows | null): Promise<void> {
    const strange = await firstStrange(limitedBy(this.layerAt(layer).plan, queries, own))
    if (!strange) return
    // Nothing has changed before the first layer's rows are stored, so the step can still be taken again.
    const goesOn = step.done.size === 0
    if (goesOn) this.abandon()
    else this.guard.break(`layer ${layer} was handed NaN, infinite or too large ${strange.what}`)
    throw new NonFiniteError(layer, strange.what, strange.limit, goesOn)
  }

  async read(layer: number, queries: tf.Tensor): Promise<tf.Tensor> {
    this.guard.check()
    const n = queries.shape[1] ?? 0
    const state = new StepState(this.model.rope, this.tokensSeen - n, n)
    const { source } = this.layerAt(layer).plan
    const held = this.layerAt(source)
    try {
      const stored = Math.min(n, held.lanes[0]?.rows ?? 0)
      return await held.attend(queries, null, stored, this.recipe.contextOf(source, { state }), false)
    } finally {
      state.dispose()
      if (!this.step) this.reconstructor.forget(Number.POSITIVE_INFINITY)
    }
  }

  async commit(): Promise<void> {
    this.guard.check()
    const step = checkCommit(this.step, this.layers.length)
    for (const token of step.incoming) this.tokens.push(token)
    this.step = null
    if (this.recipe.waitsForReplay(step)) this.wait(step)
    else await this.finish(step)
  }

  /** The last part of a step: what is decided over all layers, and giving back the room of dropped rows. */
  private async finish(step: Step): Promise<void> {
    await this.guard.alone('commit()', () =>
      this.guard.breaking('commit()', async () => {
        await this.recipe.decide(step)
        return undefined
      }),
    )
    for (const layer of this.layers) for (const lane of layer.lanes) reclaim(lane)
    step.state.dispose()
    this.reconstructor.forget(Number.POSITIVE_INFINITY)
    this.noteChanges()
  }

  /** A step whose evictions wait until the model has read its context again. */
  private wait(step: Step): void {
    this.guard.waits = true
    const tokens = Int32Array.from(this.tokens)
    this.awaiting = {
      step,
      replay: new WaitingReplay(this.layers, tokens, this.guard, {
        room: this.contextLeft,
        copy: (measuring) => this.copy(measuring),
        finish: async () => {
          this.guard.waits = false
          this.awaiting = null
          await this.finish(step)
        },
      }),
    }
  }
  get replay(): PendingReplay | null {
    return this.awaiting?.replay ?? null
  }

  fork(): Cache {
    this.guard.check()
    checkBetweenSteps('fork()', this.step)
    return this.copy()
  }

  private copy(measuring?: Measuring): Cache {
    const account = new Account()
    account.add(this.pool.bytes)
    return new Cache(this.model, this.ready, {
      layers: this.layers.map((l) => l.copy(account)),
      pool: this.pool.retain(),
      account,
      tokens: this.tokens,
      settledTokens: this.settledTokens,
      ...(measuring ? { measuring } : {}),
    })
  }

  /** A copy in which there is room for so many tokens already. */
  private withRoom(incoming: number): Cache {
    const ahead = this.copy()
    for (const layer of ahead.layers) for (const make of roomFor(layer, incoming, this.tokensSeen)) make()
    return ahead
  }

  bytes(): ByteLedger {
    return ledgerOf(this.layers, this.account, this.pool, this.rotary)
  }

  census(layer: number): LayerCensus {
    return censusOf(this.layerAt(layer))
  }

  async materialize(layer: number, lane = 0): Promise<{ keys: tf.Tensor; values: tf.Tensor; positions: Int32Array[] }> {
    this.guard.checkOpen()
    const { step } = this
    if (step && step.room.length > 0 && step.done.size === 0) {
      const ahead = this.withRoom(step.count)
      return ahead.materialize(layer, lane).finally(() => ahead.dispose())
    }
    const { source } = this.layerAt(layer).plan
    const held = this.layerAt(source).lanes[lane]
    if (!held) throw new CacheStateError(`Layer ${layer} has no lane ${lane}.`)
    const prediction = (part: Part) => this.reconstructor.ofSealed(source, part)
    const rows = materialized(held, { rotary: this.rotary, prediction })
    if (!this.step) this.reconstructor.forget(Number.POSITIVE_INFINITY)
    return rows
  }

  segments(layer: number): readonly LaneView[] {
    return segmentViews(this.layerAt(layer))
  }

  serialize(): AsyncIterable<Uint8Array> {
    this.guard.check()
    checkBetweenSteps('serialize()', this.step)
    // The bytes are read later, while this cache may go on. So they are read from a fork that is taken now.
    const now = this.fork()
    return snapshot(serializeCache(this.model, this.ready, now.layers, now.tokens, now.settledTokens), () =>
      now.dispose(),
    )
  }

  dispose(): void {
    this.guard.dispose()
  }

  private free(): void {
    this.step?.state.dispose()
    this.awaiting?.step.state.dispose()
    this.recipe.dispose()
    this.reconstructor.forget(Number.POSITIVE_INFINITY)
    for (const layer of this.layers) layer.dispose()
    this.rotary.dispose()
    this.pool.release()
  }

  /** Forgets that a step began, as long as nothing of it was stored and no room was made for it. */
  private abandon(): void {
    this.step?.state.dispose()
    this.step = null
  }

  /** Where anything but appending has happened to rows, a rollback cannot go back behind it. */
  private noteChanges(): void {
    if (this.layers.some((layer) => layer.changed)) this.settledTokens = this.tokens.length
    for (const layer of this.layers) layer.changed = false
  }

  private layerAt(layer: number): LayerCache {
    const cache = this.layers[layer]
    if (!cache) throw new CacheStateError(`There is no layer ${layer}; the model has ${this.layers.length}.`)
    return cache
  }
}
