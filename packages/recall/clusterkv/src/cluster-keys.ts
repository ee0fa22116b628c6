/** k-means of keys by direction, and the index that is made of it. */
import {
  add,
  argMax,
  div,
  matMul,
  norm,
  reshape,
  slice,
  type Tensor,
  type Tensor2D,
  tensor2d,
  tensor3d,
  tidy,
  transpose,
} from '@tensorflow/tfjs-core'

/** Clusters of one block of keys. A type, not an interface, so that it is a `Tensors` too. */
export type ClusterIndex = {
  /** f32 `[kvHeads, clusters, keyDim]`: means of the keys as they are, so their lengths count when clusters are ranked. */
  readonly centroids: Tensor
  /** int32 `[kvHeads, clusters]`: tokens of each cluster. */
  readonly sizes: Tensor
  /** int32 `[kvHeads, tokens]`: rows of the block, cluster after cluster, ascending within one. */
  readonly members: Tensor
}

/** Added to a centroid's length before dividing by it, as the authors do. */
const LENGTH_FLOOR = 1e-8

/**
 * Assigns every key to the centroid of largest cosine (of equal ones the first), moves every centroid to the mean of its keys
 * (an empty cluster keeps its centroid), at most `iterations` times or until no label changes, and assigns once more.
 *
 * @param keys f32 `[kvHeads, tokens, keyDim]`, finite; borrowed
 * @param first rows whose keys are the first centroids, the same for every head; one per cluster
 * @returns owned by the caller
 */
export async function clusterKeys(keys: Tensor, first: Int32Array, iterations: number): Promise<ClusterIndex> {
  const [heads = 0, tokens = 0, dim = 0] = keys.shape
  const clusters = first.length
  const centroids = new Float32Array(heads * clusters * dim)
  const sizes = new Int32Array(heads * clusters)
  const members = new Int32Array(heads * tokens)
  const values = await keys.data<'float32'>()
  for (let head = 0; head < heads; head++) {
    const rows = values.subarray(head * tokens * dim, (head + 1) * tokens * dim) // [tokens, dim]
    const means = centroids.subarray(head * clusters * dim, (head + 1) * clusters * dim) // [clusters, dim]
    for (const [c, row] of first.entries()) means.set(rows.subarray(row * dim, (row + 1) * dim), c * dim)
    const own = tidy(() => reshape(slice(keys, [head, 0, 0], [1, tokens, dim]), [tokens, dim])) as Tensor2D
    let labels = await nearest(own, means)
    for (let i = 0; i < iterations; i++) {
      moveToMeans(means, rows, labels)
      const next = await nearest(own, means)
      const settled = next.every((label, token) => label === labels[token])
      labels = next
      if (settled) break
    }
    own.dispose()
    sortByLabel(
      labels,
      sizes.subarray(head * clusters, (head + 1) * clusters),
      members.subarray(head * tokens, (head + 1) * tokens),
    )
  }
  return {
    centroids: tensor3d(centroids, [heads, clusters, dim]),
    sizes: tensor2d(sizes, [heads, clusters], 'int32'),
    members: tensor2d(members, [heads, tokens], 'int32'),
  }
}

/** The cluster of each row `[tokens, dim]`. A key's own length does not change which centroid has the largest cosine. */
async function nearest(rows: Tensor2D, means: Float32Array): Promise<Int32Array> {
  const dim = rows.shape[1]
  const labels = tidy(() => {
    const centroids = tensor2d(means.slice(), [means.length / dim, dim])
    const directions = div(centroids, add(norm(centroids, 2, 1, true), LENGTH_FLOOR))
    return argMax(matMul(rows, transpose(directions) as Tensor2D), 1)
  })
  const values = await labels.data<'int32'>()
  labels.dispose()
  return values.slice()
}

/** Means in double precision, in the order of the tokens. */
function moveToMeans(means: Float32Array, rows: Float32Array, labels: Int32Array): void {
  const dim = rows.length / labels.length
  const sums = new Float64Array(means.length)
  const counts = new Int32Array(means.length / dim)
  labels.forEach((label, token) => {
    counts[label] = (counts[label] ?? 0) + 1
    for (let d = 0; d < dim; d++) sums[label * dim + d] = (sums[label * dim + d] ?? 0) + (rows[token * dim + d] ?? 0)
  })
  counts.forEach((count, c) => {
    if (count > 0) for (let d = c * dim; d < (c + 1) * dim; d++) means[d] = (sums[d] ?? 0) / count
  })
}

/** Fills `sizes` and `members` of one head. */
function sortByLabel(labels: Int32Array, sizes: Int32Array, members: Int32Array): void {
  for (const label of labels) sizes[label] = (sizes[label] ?? 0) + 1
  const next = new Int32Array(sizes.length)
  for (let c = 1; c < sizes.length; c++) next[c] = (next[c - 1] ?? 0) + (sizes[c - 1] ?? 0)
  labels.forEach((label, token) => {
    const at = next[label] ?? 0
    members[at] = token
    next[label] = at + 1
  })
}
