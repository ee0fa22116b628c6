/** Reads from its stages what a compressor promises to keep, and checks that a cache holds it. */
import { type KVCache, type KVCompressor, type ModelShape, type Protected, siteOf, stagesOn } from '@kvloom/core'
import { tidy } from '@tensorflow/tfjs-core'
import { type Held, type HeldHead, heldIn } from './held'

/** The rows of a layer that stay whatever scores, counts and budgets say. */
export function promisedOn(compressor: KVCompressor, model: ModelShape, layer: number): Required<Protected> {
  const stages = [...stagesOn(compressor, 'score', layer), ...stagesOn(compressor, 'pick', layer)]
  // Frees the tables that a stage asks for.
  const promises = tidyly(() => stages.map((stage) => stage.bind(siteOf(model, layer, 'keys')).protect))
  return {
    first: Math.max(0, ...promises.map((promise) => promise?.first ?? 0)),
    last: Math.max(0, ...promises.map((promise) => promise?.last ?? 0)),
  }
}

/** Runs `work` and frees the tensors that it makes. */
export function tidyly<T>(work: () => T): T {
  const results: T[] = []
  tidy(() => {
    results.push(work())
  })
  return results[0] as T
}

/** Sentences on promised rows that a cache does not hold, and on heads that hold none, between two steps. */
export async function brokenPromises(cache: KVCache): Promise<string[]> {
  const problems: string[] = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    if (cache.sourceLayer(layer) !== layer) continue
    // A resampled row stands for no single token, so it cannot be looked for.
    const resampled = stagesOn(cache.compressor, 'resample', layer).length > 0
    const promise = resampled ? { first: 0, last: 0 } : promisedOn(cache.compressor, cache.model, layer)
    problems.push(...missingRows(await heldIn(cache, layer), cache.tokensSeen, promise, `layer ${layer}`))
  }
  return problems
}

/** Returns sentences on promised rows of `seen` tokens that heads of a layer lack. */
export function missingRows(
  held: Held,
  seen: number,
  { first, last }: Required<Protected>,
  where: string,
): readonly string[] {
  return held.flatMap((head, h) => {
    const positions = livePositions(head)
    if (seen > 0 && positions.size === 0) return [`${where}, head ${h} holds no row after ${seen} tokens`]
    const sinks = range(0, Math.min(first, seen)).filter((p) => !positions.has(p))
    const newest = range(Math.max(0, seen - last), seen).filter((p) => !positions.has(p))
    const missing = [...new Set([...sinks, ...newest])]
    return missing.length > 0
      ? [
          `${where}, head ${h} lost promised tokens ${missing.slice(0, 5).join(', ')} of ${seen} (the first ${first}, the last ${last})`,
        ]
      : []
  })
}

const livePositions = ({ positions }: HeldHead): ReadonlySet<number> => new Set(positions.filter((p) => p >= 0))

const range = (from: number, end: number): number[] =>
  Array.from({ length: Math.max(0, end - from) }, (_, i) => from + i)

/**
 * The sizes at which a compressor acts, as its stages state them: promised rows and windows, the capacity of a resampled cache, the budget of a
 * recall, the most tokens of a step. Prompts of about these sizes cross its edges.
 */
export function sizesOf(compressor: KVCompressor, model: ModelShape): readonly number[] {
  const { window } = compressor
  const zones = window ? [window.keys, window.values] : []
  const sizes = zones.flatMap(({ recent, block }) => [recent, recent + block])
  for (let layer = 0; layer < model.layers; layer++) {
    const { first, last } = promisedOn(compressor, model, layer)
    sizes.push(first, last, first + last)
    const site = siteOf(model, layer, 'keys')
    tidyly(() => {
      for (const stage of stagesOn(compressor, 'resample', layer)) sizes.push(stage.bind(site).capacity)
      for (const stage of stagesOn(compressor, 'pick', layer)) sizes.push(stage.bind(site).chunkLimit ?? 0)
    })
  }
  return [...new Set(sizes)].filter((n) => Number.isFinite(n) && n > 1).sort((a, b) => a - b)
}
