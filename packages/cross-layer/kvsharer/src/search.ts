/**
 * The search of KVSharer (arXiv 2410.18517, algorithm 1), as the authors' notebook runs it: layers are compared by their average
 * keys and values, and pairs are tried in the order of their distance until enough layers share. The paper's text flattens a
 * layer into one vector; the notebook averages the distances of its per-head vectors, and so does this.
 */
import type { HostTensor } from '@kvloom/core'
import { seededRandom } from '@kvloom/math'

/** Layer `later` may read what layer `earlier` stores. */
export interface LayerPair {
  readonly later: number
  readonly earlier: number
}

/** One map that was tried: `map[i]` is the layer that layer i reads. */
export interface Trial {
  readonly map: readonly number[]
  readonly similarity: number
  readonly accepted: boolean
}

export interface SharingSearch {
  /** Never points to a layer that itself reads another one. */
  readonly map: readonly number[]
  readonly trials: readonly Trial[]
}

/**
 * Mean over sentences, position by position, `[kvHeads, tokens, dim]`. As in the notebook, a sentence of another length than the
 * first is left out of the sum and still counts in the divisor.
 */
export function averageRows(sentences: readonly HostTensor[]): HostTensor {
  const shape = sentences[0]?.shape ?? []
  const alike = sentences.filter((sentence) => sentence.shape.join() === shape.join())
  const values = Float32Array.from(alike[0]?.values ?? [], (_, i) => {
    let sum = 0
    for (const sentence of alike) sum += sentence.values[i] ?? 0
    return sum / sentences.length
  })
  return { shape, values }
}

/**
 * How far layers are apart: L2 distance over the channels of a head, averaged over heads, positions, keys and values.
 * @param keys after RoPE, per layer `[kvHeads, tokens, dim]`
 * @returns `[later][earlier]`; 0 where earlier is not earlier
 */
export function layerDistances(keys: readonly HostTensor[], values: readonly HostTensor[]): number[][] {
  const of = (rows: readonly HostTensor[], i: number, j: number): number => {
    const [a, b] = [rows[i], rows[j]]
    return a && b && j < i ? meanDistance(a, b) : 0
  }
  return keys.map((_, i) => keys.map((_, j) => (of(keys, i, j) + of(values, i, j)) / 2))
}

/** Mean over heads and positions of the L2 distance between `[kvHeads, tokens, dim]` rows. */
function meanDistance(a: HostTensor, b: HostTensor): number {
  const dim = a.shape.at(-1) ?? 1
  let sum = 0
  for (let row = 0; row < a.values.length; row += dim) {
    let squares = 0
    for (let at = row; at < row + dim; at++) squares += ((a.values[at] ?? 0) - (b.values[at] ?? 0)) ** 2
    sum += Math.sqrt(squares)
  }
  return sum / (a.values.length / dim)
}

/** All pairs in the order in which they are tried; equal distances by later, then earlier layer. */
export function rankPairs(
  distances: readonly (readonly number[])[],
  order: 'descending' | 'ascending' | 'random',
  seed: number,
): LayerPair[] {
  const pairs = distances.flatMap((row, later) => row.slice(0, later).map((_, earlier) => ({ later, earlier })))
  if (order === 'random') {
    const shuffled = seededRandom(seed).permutation(pairs.length)
    return Array.from(shuffled).flatMap((i) => pairs[i] ?? [])
  }
  const distance = ({ later, earlier }: LayerPair) => distances[later]?.[earlier] ?? 0
  const sign = order === 'descending' ? -1 : 1
  return pairs.sort((a, b) => sign * (distance(a) - distance(b)))
}

/**
 * Lets later layers read earlier ones, pair by pair, while the model stays alike.
 * @param similarity of the model that reads by `map` to the original one; asked once per tried map
 * @returns the last accepted map: fewer than `share` layers share when no more pairs exceed the threshold
 */
export async function searchSharing(
  pairs: readonly LayerPair[],
  { layers, share, threshold }: { readonly layers: number; readonly share: number; readonly threshold: number },
  similarity: (map: readonly number[]) => Promise<number>,
): Promise<SharingSearch> {
  let map = Array.from({ length: layers }, (_, layer) => layer)
  let shared = 0
  const trials: Trial[] = []
  for (const { later, earlier } of pairs) {
    if (shared === share) break
    if (map[later] !== later) continue
    const tried = resolved(map.map((source, layer) => (layer === later ? earlier : source)))
    const reached = await similarity(tried)
    const accepted = reached > threshold
    trials.push({ map: tried, similarity: reached, accepted })
    if (!accepted) continue
    map = tried
    shared++
  }
  return { map, trials }
}

/** Chains end where rows are stored: i reads j, j reads k, so i reads k. Ascending, so that j is settled before i. */
export function resolved(map: readonly number[]): number[] {
  const settled: number[] = []
  for (const [layer, source] of map.entries()) settled.push(source < layer ? (settled[source] ?? source) : layer)
  return settled
}
