/** Measures what a pass over the context attends to, on a copy of the cache: largest shares per stored token, kept in the original. */
import * as tf from '@tensorflow/tfjs-core'
import type { KVCache, PendingReplay, ReplayPass, ReplayTexts } from '../contract'
import { CacheStateError } from '../errors'
import { headsOf } from '../tensors'
import { checkPass } from './check-step'
import type { Guard } from './guard'
import type { Lane, LaneContext } from './lane'
import { type LayerCache, queryHeadsOf, type Step } from './layer'

/** A pass that a copy of the cache measures. */
export interface Measuring {
  readonly pass: ReplayPass
  /** Tokens of the context: those of the pass follow. */
  readonly context: number
  /** The layers of the original, which keep what is measured. */
  readonly original: readonly LayerCache[]
}

/** A cache that waits: what is to be read, copies that measure it, and the end of its step. */
export class WaitingReplay implements PendingReplay {
  private finished = false

  constructor(
    private readonly layers: readonly LayerCache[],
    private readonly tokens: Int32Array,
    private readonly guard: Guard,
    private readonly cache: { readonly room: number; copy(measuring: Measuring): KVCache; finish(): Promise<void> },
  ) {}

  passes(texts: ReplayTexts): readonly ReplayPass[] {
    const scorer = this.layers.map(({ plan }) => plan.score?.does).find((does) => does?.replay)
    const passes = scorer?.replay?.({
      tokens: this.tokens.slice(),
      room: this.cache.room,
      encode: (text) => texts.encode(text),
      beforeAnswer: () => texts.beforeAnswer(),
    })
    return passes ?? []
  }

  open(pass: ReplayPass): KVCache {
    this.checkWaiting()
    checkPass(pass, this.tokens.length)
    return this.cache.copy({ pass, context: this.tokens.length, original: this.layers })
  }

  async finish(): Promise<void> {
    this.checkWaiting()
    this.finished = true
    await this.cache.finish()
  }

  private checkWaiting(): void {
    this.guard.check(true)
    if (this.finished) throw new CacheStateError('This replay is finished: the cache has gone on.')
  }
}

/** A layer of the copy has appended this step's rows: what their queries (before RoPE) attend to is measured. */
export function measure(
  { pass, context: tokens, original }: Measuring,
  layer: LayerCache,
  queries: tf.Tensor,
  step: Step,
  context: LaneContext,
): void {
  const target = original[layer.plan.layer]
  if (!target?.plan.score?.does.replay) return
  const rotated = step.state.rotation.rotate(queries)
  for (const [i, lane] of layer.lanes.entries()) {
    const held = target.replayed[i]
    if (!held) continue
    const rows = target.lanes[i]?.rows ?? 0
    const { measured, among } = marksOf(lane, pass, tokens)
    const own = headsOf(rotated, queryHeadsOf(lane))
    const mass = lane.attentionOf(own, 'max', context, among)
    const known = held.tensor
    const next = tf.tidy(() => {
      const group = tf.expandDims(measured, 1) // [heads, 1, rows + pass]
      const [heads = 0, all = 0] = measured.shape
      const shares = tf.reshape(tf.mul(tf.reshape(mass, [heads, -1, all]), group), [-1, all])
      const stored = tf.slice(shares as tf.Tensor2D, [0, 0], [-1, rows])
      return (known ? tf.maximum(known, stored) : tf.add(stored, 0)) as tf.Tensor2D
    })
    held.replace(next)
    tf.dispose([measured, among, own, mass])
  }
  rotated.dispose()
}

/** Per head and stored row: `measured` f32, 1 for rows of the pass's range; `among` int32, 1 for rows of its softmax. Dropped rows are in neither. */
function marksOf(lane: Lane, { from, to, sinks = 0 }: ReplayPass, tokens: number) {
  const positions = lane.positions.tensor()
  const live = lane.live.tensor(0)
  const marks = tf.tidy(() => {
    const alive = (marks: tf.Tensor) => (live ? tf.logicalAnd(marks, tf.cast(live, 'bool')) : marks)
    const inRange = tf.logicalAnd(tf.greaterEqual(positions, from), tf.less(positions, to))
    const beside = tf.logicalOr(tf.less(positions, sinks), tf.greaterEqual(positions, tokens))
    return {
      measured: tf.cast(alive(inRange), 'float32') as tf.Tensor2D,
      among: tf.cast(alive(tf.logicalOr(inRange, beside)), 'int32') as tf.Tensor2D,
    }
  })
  tf.dispose(live ? [positions, live] : [positions])
  return marks
}
