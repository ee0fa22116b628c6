/** What a query reads: whole clusters, best inner product first, until the count is reached. */
import { concat, matMul, reshape, type Tensor, tensor2d, tidy } from '@tensorflow/tfjs-core'
import type { ClusterIndex } from './cluster-keys'

/** Clusters of all blocks, block after block, as each query head ranks them. */
export interface Ranking {
  /** Inner product of query and centroid `[queryHeads, clusters]`. */
  readonly scores: Float32Array
  /** Clusters by descending score, of equal scores the first, `[queryHeads, clusters]`. */
  readonly order: Int32Array
  readonly clusters: number
}

/** @param queries `[queryHeads, keyDim]` after RoPE; query head h reads KV head floor(h / group) */
export async function rankClusters(queries: Tensor, blocks: readonly ClusterIndex[]): Promise<Ranking> {
  const [queryHeads = 0, dim = 0] = queries.shape
  const kvHeads = blocks[0]?.centroids.shape[0] ?? 0
  const clusters = blocks.reduce((sum, { centroids }) => sum + (centroids.shape[1] ?? 0), 0)
  const group = queryHeads / kvHeads
  const products = tidy(() => {
    const centroids = blocks.map((block) => block.centroids)
    const all = centroids.length === 1 ? (centroids[0] as Tensor) : concat(centroids, 1)
    return matMul(reshape(queries, [kvHeads, group, dim]), all, false, true)
  }) // [kvHeads, group, clusters]
  const scores = (await products.data<'float32'>()).slice()
  products.dispose()
  const order = new Int32Array(queryHeads * clusters)
  for (let head = 0; head < queryHeads; head++) {
    const own = scores.subarray(head * clusters, (head + 1) * clusters)
    const ranked = order.subarray(head * clusters, (head + 1) * clusters)
    for (let i = 0; i < clusters; i++) ranked[i] = i
    ranked.sort((a, b) => (own[b] ?? 0) - (own[a] ?? 0) || a - b)
  }
  return { scores, order, clusters }
}

/**
 * The first `count` rows of the ranked clusters; of the last cluster those of lowest number.
 * @returns int32 `[queryHeads, count]` ascending, numbered through all blocks; owned by the caller
 */
export async function selectRows(
  { order, clusters }: Ranking,
  blocks: readonly ClusterIndex[],
  count: number,
): Promise<Tensor> {
  const queryHeads = order.length / clusters
  const lists = await membersOf(blocks)
  const group = queryHeads / lists.length
  const rows = new Int32Array(queryHeads * count)
  for (let head = 0; head < queryHeads; head++) {
    const own = lists[Math.floor(head / group)] ?? []
    const chosen = rows.subarray(head * count, (head + 1) * count)
    let taken = 0
    for (const cluster of order.subarray(head * clusters, (head + 1) * clusters)) {
      if (taken === count) break
      const members = own[cluster] ?? new Int32Array(0)
      const part = members.subarray(0, count - taken)
      chosen.set(part, taken)
      taken += part.length
    }
    chosen.sort()
  }
  return tensor2d(rows, [queryHeads, count], 'int32')
}

/** Rows of every cluster of every KV head, numbered through all blocks: `[kvHead][cluster]`. */
async function membersOf(blocks: readonly ClusterIndex[]): Promise<readonly (readonly Int32Array[])[]> {
  const lists: Int32Array[][] = []
  let before = 0
  for (const block of blocks) {
    for (const [head, own] of (await listsOf(block, before)).entries()) {
      const list = lists[head] ?? []
      lists[head] = list
      list.push(...own)
    }
    before += block.members.shape[1] ?? 0
  }
  return lists
}

/** Member lists of blocks whose first row is number `before`. A block never changes, so it is read back once and not at every step. */
const known = new WeakMap<Tensor, { readonly before: number; readonly lists: readonly (readonly Int32Array[])[] }>()

async function listsOf({ sizes, members }: ClusterIndex, before: number): Promise<readonly (readonly Int32Array[])[]> {
  const made = known.get(members)
  if (made?.before === before) return made.lists
  const [heads = 0, tokens = 0] = members.shape
  const [counts, ids] = [await sizes.data<'int32'>(), await members.data<'int32'>()]
  const clusters = counts.length / heads
  const lists = Array.from({ length: heads }, (_, head) => {
    let at = head * tokens
    return Array.from(counts.subarray(head * clusters, (head + 1) * clusters), (size) => {
      const list = ids.slice(at, at + size).map((id) => id + before)
      at += size
      return list
    })
  })
  known.set(members, { before, lists })
  return lists
}

/** How many of its ranked clusters each query head needs to cover `count` rows: `[queryHeads]`. */
export async function clustersNeeded(
  { order, clusters }: Ranking,
  blocks: readonly ClusterIndex[],
  count: number,
): Promise<readonly number[]> {
  const lists = await membersOf(blocks)
  const queryHeads = order.length / clusters
  const group = queryHeads / lists.length
  return Array.from({ length: queryHeads }, (_, head) => {
    const own = lists[Math.floor(head / group)] ?? []
    let covered = 0
    const last = order.subarray(head * clusters, (head + 1) * clusters).findIndex((cluster) => {
      covered += own[cluster]?.length ?? 0
      return covered >= count
    })
    return last < 0 ? clusters : last + 1
  })
}

/**
 * Share of the clusters of a step that one of the steps before it had too, mean over query heads: what a cache that remembers
 * so many steps need not fetch.
 * @param step clusters per query head; @param before the same of each remembered step
 */
export function hitRate(
  step: readonly (readonly number[])[],
  before: readonly (readonly (readonly number[])[])[],
): number {
  const rates = step.map((clusters, head) => {
    const known = new Set(before.flatMap((one) => one[head] ?? []))
    return clusters.length === 0 ? 1 : clusters.filter((c) => known.has(c)).length / clusters.length
  })
  return rates.reduce((sum, rate) => sum + rate, 0) / Math.max(1, rates.length)
}
