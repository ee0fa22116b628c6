/** What is decided over several layers at once: one set of tokens for all of them, or one budget over all of their heads. */
import * as tf from '@tensorflow/tfjs-core'
import { floorOf } from '../protect'
import { dropsNothing, keepBest, promisedBy, type Scored, type Seen, scoresOf, sharedOut, uniformCounts } from './evict'
import type { LayerCache, Step } from './layer'

/** A layer that waits for a decision, and what its step left to be seen. */
export interface Undecided {
  readonly layer: LayerCache
  readonly seen: Seen
}

/** Scores the rows of all these layers, decides once, and drops the rows that are not kept. All have the same scorer. */
export async function evictTogether(all: readonly Undecided[], step: Step): Promise<void> {
  const [first] = all
  const score = first?.layer.plan.score
  if (!first || !score) return
  const { budget, tokenSets } = first.layer.plan
  const counts = all.map(({ layer }) => uniformCounts(layer, step))
  const keepsAll = all.every(({ layer }, i) => dropsNothing(layer, counts[i] ?? []))
  if (keepsAll && !budget && !score.does.columns) return
  const scored = all.map(({ layer, seen }, i): Scored => {
    const { does } = layer.plan.score ?? score
    return {
      layer,
      scores: layer.lanes.map((lane) => scoresOf(layer, lane, does, seen, step)),
      uniform: counts[i] ?? [],
    }
  })
  if (tokenSets === 'model') await keepOneSet(all, scored, step)
  else if (budget) {
    const shares = await sharedOut(budget, scored, step)
    for (const [i, { layer, seen }] of all.entries())
      await keepBest(layer, scored[i]?.scores ?? [], shares[i] ?? [], seen, step)
  }
  tf.dispose(scored.flatMap(({ scores }) => [...scores]))
}

/** Keeps the same rows in every layer: those with the largest mean score, as many as the layers' scorers keep on average. */
async function keepOneSet(all: readonly Undecided[], scored: readonly Scored[], step: Step): Promise<void> {
  const rows = new Set(scored.map(({ layer }) => layer.lanes[0]?.rows ?? 0))
  if (rows.size !== 1) throw new Error(`layers that share one set of tokens hold ${[...rows].join(' and ')} rows`)
  const one = tf.tidy(() => tf.mean(tf.stack(scored.flatMap(({ scores }) => [...scores])), 0)) as tf.Tensor2D // [1, rows]
  const mean = Math.trunc(scored.reduce((sum, { uniform }) => sum + (uniform[0] ?? 0), 0) / scored.length)
  const floor = Math.max(...all.map(({ layer }) => floorOf(layer.lanes[0]?.liveRows ?? 0, promisedBy(layer))))
  for (const { layer, seen } of all) await keepBest(layer, [one], [Math.max(mean, floor)], seen, step)
  one.dispose()
}
