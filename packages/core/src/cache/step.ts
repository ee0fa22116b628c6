/**
 * What happens to a step's rows in one layer, from top to bottom: attend, append, evict, seal, index. `attendLayer` is the recipe;
 * a layer whose rows a later one still reads waits with everything behind attending until that one has attended.
 */
import * as tf from '@tensorflow/tfjs-core'
import { actsNow, evict, forget, type Seen, type Watched, watch } from './evict'
import { evictTogether, type Undecided } from './evict-together'
import { fitPrompt } from './fit-prompt'
import type { LaneContext, NewRows } from './lane'
import type { LayerCache, Step } from './layer'
import { indexOrder, settleOrder } from './order'
import type { Reconstructor } from './reconstruct'
import { type Measuring, measure } from './replay'
import type { Rotary } from './rotary'
import { sealLayer } from './seal'

/** What a layer brings to a step: queries before RoPE, hidden states, and its rows. */
interface Brought extends Watched {
  readonly own: NewRows
}

export class Recipe {
  /** For each layer, the layers whose rows are stored once it has attended, in order. */
  private readonly stores: readonly (readonly number[])[]
  /** For each layer, the layers whose rows are indexed once it has sealed. A group's rows are sealed with its last layer. */
  private readonly indexes: readonly (readonly number[])[]
  /** Layers whose evictions make a step wait until all layers have attended; none in most caches. */
  private readonly deciding: readonly LayerCache[]
  /** Layers whose rows are stored and wait for a decision over all layers. */
  private readonly undecided: { readonly layer: LayerCache; readonly seen: Seen | null }[] = []
  /** What layers brought whose rows wait to be stored. */
  private readonly waiting = new Map<number, Brought>()

  constructor(
    private readonly layers: readonly LayerCache[],
    private readonly reconstructor: Reconstructor,
    private readonly rotary: Rotary,
    /** Whether a step attends to its own rows as they are stored: they are appended and sealed first. */
    private readonly storesFirst: boolean,
    /** A pass over the context again: rows are appended and measured, and nothing else happens to them. */
    private readonly measuring: Measuring | null = null,
  ) {
    const plans = layers.map((layer) => layer.plan)
    this.stores = settleOrder(plans)
    this.indexes = indexOrder(plans)
    const across = plans.some((plan) => plan.acrossLayers)
    this.deciding = layers.filter(({ plan }) => across || plan.together !== null || plan.score?.does.replay)
  }

  /** Takes one layer through a step; `own` is null where it reads the rows of another. @returns `[queryHeads, n, valueDim]`, the caller's */
  async attendLayer(number: number, watched: Watched, own: NewRows | null, step: Step): Promise<tf.Tensor> {
    const { source } = this.layerAt(number).plan
    const read = this.layerAt(source)

    // 1. Attend: to what is stored, and to the step's own rows as they were handed in or as they are stored.
    if (this.storesFirst && own) {
      read.append(own, step)
      await this.seal(read, step)
    }
    const given = this.storesFirst ? null : (own ?? this.waiting.get(source)?.own ?? null)
    const output = await read.attend(
      watched.queries,
      given,
      this.storesFirst ? step.count : 0,
      this.contextOf(source, step),
    )

    const due = this.stores[number] ?? []
    if (own && !due.includes(number)) this.wait(number, { ...watched, own })
    for (const stored of due) {
      const brought = stored === number && own ? { ...watched, own } : this.waiting.get(stored)
      if (!brought) throw new Error(`layer ${stored} has no rows to store`)
      await this.store(this.layerAt(stored), brought, step)
      this.release(stored)
    }
    this.reconstructor.forget(source)
    return output
  }

  /** Stores the rows of a layer once no layer reads them any more in this step, and lets the stages act. */
  private async store(layer: LayerCache, { own, ...watched }: Brought, step: Step): Promise<void> {
    const number = layer.plan.layer

    // 2. Append: the new rows join the exact ones.
    if (!this.storesFirst) layer.append(own, step)

    if (this.measuring) {
      measure(this.measuring, layer, watched.queries, step, this.contextOf(number, step))
      return
    }

    // What is decided over all layers waits until the last one has attended, and so does everything behind it.
    const seen = watch(layer, watched, step, this.contextOf(number, step))
    if (this.decidesTogether(step)) {
      if (seen) layer.undecided.replace(seen.stepQueries)
      this.undecided.push({ layer, seen })
    } else await this.settle(layer, seen, step, () => evictAlone(layer, seen, step))
  }

  /** Steps 3 to 5 of layers that wait for a decision over all of them; nothing where none does. */
  async decide(step: Step): Promise<void> {
    const waiting = this.undecided.splice(0)
    const acting = waiting.filter((each): each is Undecided => each.seen !== null && actsNow(each.layer, step))
    const numbers = new Set(acting.flatMap(({ layer }) => layer.plan.together ?? []))
    for (const number of numbers)
      await evictTogether(
        acting.filter(({ layer }) => layer.plan.together === number),
        step,
      )
    for (const { layer, seen } of waiting)
      await this.settle(layer, seen, step, async () => {
        if (layer.plan.together === null) await evictAlone(layer, seen, step)
      })
  }

  /**
   * Whether this step's evictions wait until all layers have attended: where they are decided over several layers, where the model reads its
   * context again before, and where a layer is read with the help of another one's rows, which then must not have gone yet.
   */
  private decidesTogether(step: Step): boolean {
    return this.deciding.some((layer) => actsNow(layer, step))
  }

  /** What follows once a layer's rows are appended and watched. */
  private async settle(
    layer: LayerCache,
    seen: Seen | null,
    step: Step,
    evictRows: () => Promise<void>,
  ): Promise<void> {
    // 3. Evict: rows are scored and picked; a transform is fitted on those that the prompt leaves.
    await evictRows()
    if (seen) {
      for (const measured of layer.replayed) measured.replace(null)
      if (layer.plan.fitsPrompt && step.phase === 'promptEnd') fitPrompt(layer, seen)
      forget(layer, seen, step)
    }

    // 4. Seal: the oldest exact rows are encoded, as many as the windows say.
    await this.seal(layer, step)

    // 5. Index: rows that nothing changes any more can be recalled.
    for (const l of this.indexes[layer.plan.layer] ?? []) await this.layerAt(l).index(step, this.contextOf(l, step))
  }

  /** Whether the model reads its context again before this step's evictions are decided. */
  waitsForReplay(step: Step): boolean {
    return !this.measuring && this.deciding.some((layer) => layer.plan.score?.does.replay && actsNow(layer, step))
  }

  private async seal(layer: LayerCache, step: Step): Promise<void> {
    if (!layer.frozen(step) && !this.measuring)
      await sealLayer(layer, this.layers, this.reconstructor, step.phase === 'promptEnd')
  }

  /** What the lanes of a layer need to be read. */
  contextOf(layer: number, { state }: Pick<Step, 'state'>): LaneContext {
    const { rotary, reconstructor } = this
    return {
      rotation: state.rotation,
      positions: state.positions,
      rotary,
      prediction: (part) => reconstructor.ofSealed(layer, part),
    }
  }

  private layerAt(number: number): LayerCache {
    const layer = this.layers[number]
    if (!layer) throw new Error(`there is no layer ${number}`)
    return layer
  }

  private wait(number: number, { queries, hidden, own }: Brought): void {
    const { keys, rotated, values, n } = own
    const copies = { keys: tf.clone(keys), rotated: tf.clone(rotated), values: tf.clone(values), n }
    this.waiting.set(number, { queries: tf.clone(queries), hidden: hidden && tf.clone(hidden), own: copies })
  }
  private release(number: number): void {
    const rows = this.waiting.get(number)
    if (rows)
      tf.dispose([
        rows.queries,
        rows.own.keys,
        rows.own.rotated,
        rows.own.values,
        ...(rows.hidden ? [rows.hidden] : []),
      ])
    this.waiting.delete(number)
  }
  /** Frees what waits, when the cache is given up in the middle of a step. */
  dispose(): void {
    for (const number of [...this.waiting.keys()]) this.release(number)
    this.undecided.length = 0
  }
}

async function evictAlone(layer: LayerCache, seen: Seen | null, step: Step): Promise<void> {
  if (seen && actsNow(layer, step)) await evict(layer, seen, step)
}
