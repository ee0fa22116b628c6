/** Cases made by the authors' ClusterKV: clusters of a prompt or of a window, what queries read of them, and the output. */

import { type KVCompressor, siteOf, stagesOn, type Tensors } from '@kvloom/core'
import {
  type Arena,
  type CaseAdapter,
  compareArrays,
  feed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  modelOf,
  type NdArray,
  numberOption,
  numbersOption,
  type Outcome,
  openExact,
  type Rows,
  rowsOf,
  type TensorResult,
  type Tolerance,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { pagedAttention } from '@kvloom/kernels'
import { slice, type Tensor, tensor3d } from '@tensorflow/tfjs-core'
import { type ClusterIndex, clusterKeys } from '../src/cluster-keys'
import { clusterCount, clusterkv } from '../src/clusterkv'
import { clustersNeeded, hitRate, type Ranking, rankClusters } from '../src/select-clusters'

/** A share of a few clusters, in double precision on both sides. */
const RATE: Tolerance = { abs: 1e-6 }
const EXACT: Tolerance = {}

/** ClusterKV against its authors' data. */
export const adapter: CaseAdapter = { method: 'clusterkv', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (golden.options['window'] !== undefined)
    return {
      tensors: await indexResults(golden, numberOption(golden, 'window_start'), numberOption(golden, 'window')),
    }
  if (golden.scalars['hit_rate_R1'] !== undefined) return { tensors: await hitRates(golden) }
  if (golden.options['prompt_tokens'] !== undefined) return { tensors: await promptAndSteps(golden) }
  const rows = golden.scalars['rows'] as readonly (readonly [number, number])[] | undefined
  if (!rows) return null
  const counts = rows.map(([tokens]) => clusterCount(tokens, { clusters: null, tokensPerCluster: 80 }))
  return { tensors: [compareArrays('clusters', listOf(counts), listOf(rows.map(([, n]) => n)), EXACT)] }
}

const listOf = (data: readonly number[], Kind: typeof Int32Array | typeof Float32Array = Int32Array): NdArray => ({
  shape: [data.length],
  data: Kind.from(data),
})

/** Keys of rows `from … from + count`, clustered from the first centroids of the case. */
async function indexOf(golden: GoldenCase, from: number, count: number, arena: Arena) {
  const keys = arena.own(toTensor(await golden.input('k')))
  const block = arena.own(slice(keys, [0, from, 0], [-1, count, -1]))
  const first = Int32Array.from((await golden.input('init_idx')).data)
  const clusters = numberOption(golden, 'clusters')
  if (first.length !== clusters)
    throw new GoldenError(`Case ${golden.name} has ${first.length} first centroids for ${clusters} clusters.`)
  const index = await clusterKeys(block, first, numberOption(golden, 'iterations'))
  for (const tensor of Object.values(index)) arena.own(tensor)
  return index
}

/** labels, centroids, sizes and token_ids of a case whose clustered rows begin at `from`. */
function indexResults(golden: GoldenCase, from: number, count: number): Promise<TensorResult[]> {
  return withArena(async (arena) => {
    const index = await indexOf(golden, from, count, arena)
    const results = await readIndex(index, from - numberOption(golden, 'sink'))
    return Promise.all(
      golden.expects.map(async (name) => {
        const result = results[name]
        if (!result) return wrong(name, 'no result for this name')
        return compareArrays(name, result, await golden.expected(name), golden.tolerance(name))
      }),
    )
  })
}

async function readIndex(index: ClusterIndex, offset: number): Promise<Record<string, NdArray>> {
  const [centroids, sizes, members] = [
    await fromTensor(index.centroids),
    await fromTensor(index.sizes),
    await fromTensor(index.members),
  ]
  const [heads = 0, tokens = 0] = members.shape
  const clusters = sizes.shape[1] ?? 0
  const labels = new Int32Array(heads * tokens).fill(-1)
  for (let head = 0; head < heads; head++) {
    let at = head * tokens
    for (let c = 0; c < clusters; c++)
      for (let i = 0; i < (sizes.data[head * clusters + c] ?? 0); i++)
        labels[head * tokens + (members.data[at++] ?? 0)] = c
  }
  return {
    centroids,
    sizes,
    labels: { shape: [heads, tokens], data: labels },
    token_ids: { shape: [heads, tokens], data: Int32Array.from(members.data, (id) => id + offset) },
  }
}

async function promptAndSteps(golden: GoldenCase): Promise<TensorResult[]> {
  const rows = await rowsOf(golden)
  const [prompt, sink] = [numberOption(golden, 'prompt_tokens'), numberOption(golden, 'sink')]
  const model = modelOf(rows)
  const tensors: TensorResult[] = []
  const done = new Set<string>()
  const compare = async (name: string, label: string, result: NdArray): Promise<void> => {
    done.add(name)
    if (golden.expects.includes(name))
      tensors.push(compareArrays(label, result, await golden.expected(name), golden.tolerance(name)))
  }
  await withArena(async (arena) => {
    const index = await indexOf(golden, sink, prompt - sink, arena)
    for (const [name, result] of Object.entries(await readIndex(index, 0))) await compare(name, name, result)

    const positions = numbersOption(golden, 'step_positions')
    for (const budget of numbersOption(golden, 'budgets')) {
      const compressor = clusterkv({
        budget,
        sinks: sink,
        clusters: numberOption(golden, 'clusters'),
        iterations: numberOption(golden, 'iterations'),
        every: Number.MAX_SAFE_INTEGER,
        skipLayers: [],
      })
      const [stage] = stagesOn(compressor, 'recall', 0)
      if (!stage) throw new GoldenError(`${compressor.card.name} recalls nothing.`)
      const count = Math.min(budget, prompt) - sink
      const outputs = await outputsOfCache(
        withFirst(compressor, golden, await golden.input('init_idx')),
        rows,
        prompt,
        positions,
      )
      for (const position of positions) {
        const at = `b${budget}_t${position}`
        const queries = arena.own(queriesAt(rows, position))
        const ranking = await rankClusters(queries, [index])
        const shape = [model.queryHeads, ranking.clusters]
        await compare(`u_t${position}`, `u_t${position}`, { shape, data: ranking.scores })
        const chosen = await stage.bind(siteOf(model, 0, 'keys')).select(queries, [index], [prompt - sink], count)
        const selected = await fromTensor(arena.own(chosen))
        const absolute = { ...selected, data: Int32Array.from(selected.data, (row) => row + sink) }
        const needed = golden.scalars[`clusters_needed_${at}`] as readonly number[] | undefined
        if (needed)
          tensors.push(
            compareArrays(
              `clusters_needed_${at}`,
              listOf(await clustersNeeded(ranking, [index], count)),
              listOf(needed),
              EXACT,
            ),
          )
        if (isTied(golden, at, ranking)) {
          // Two clusters rank equally: any order of theirs is right, and what is read follows from it.
          tensors.push(await compareRanking(golden, `order_${at}`, ranking))
          for (const name of [`order_${at}`, `selected_${at}`, `output_${at}`]) done.add(name)
          continue
        }
        await compare(`order_${at}`, `order_${at}`, { shape, data: ranking.order })
        await compare(`selected_${at}`, `selected_${at}`, absolute)
        const output = attentionOf(rows, absolute, sink, prompt, position, arena)
        await compare(`output_${at}`, `output_${at} (stage)`, output)
        await compare(`output_${at}`, `output_${at}`, outputs.get(position) ?? output)
      }
    }
  })
  for (const name of golden.expects) if (!done.has(name)) tensors.push(wrong(name, 'no result for this name'))
  return tensors
}

/** How far an inner product may be off. */
function allowanceOf(golden: GoldenCase, { scores }: Ranking): number {
  const { abs = 0, rel = 0 } = golden.tolerance('u')
  return abs + rel * scores.reduce((most, u) => Math.max(most, Math.abs(u)), 0)
}

/** Whether the data says that two neighbours of the order lie closer than inner products may be off. */
function isTied(golden: GoldenCase, at: string, ranking: Ranking): boolean {
  const gap = golden.scalars[`u_gap_${at}`]
  return typeof gap === 'number' && gap <= allowanceOf(golden, ranking)
}

/** Where clusters tie: at every place of the order stands a cluster whose score is the expected one's, within what it may be off. */
async function compareRanking(golden: GoldenCase, name: string, ranking: Ranking): Promise<TensorResult> {
  const expected = await golden.expected(name)
  const scoreOf = (order: ArrayLike<number>, i: number) =>
    ranking.scores[Math.floor(i / ranking.clusters) * ranking.clusters + (order[i] ?? 0)] ?? Number.NaN
  const scored = (order: ArrayLike<number>): NdArray => ({
    shape: expected.shape,
    data: Float32Array.from({ length: expected.data.length }, (_, i) => scoreOf(order, i)),
  })
  return compareArrays(name, scored(ranking.order), scored(expected.data), { abs: 2 * allowanceOf(golden, ranking) })
}

/** The queries of one position `[queryHeads, dim]`. */
function queriesAt({ queries }: Rows, position: number): Tensor {
  const [heads = 0, tokens = 0, dim = 0] = queries.shape
  const data = new Float32Array(heads * dim)
  for (let head = 0; head < heads; head++)
    data.set(queries.data.subarray((head * tokens + position) * dim, (head * tokens + position + 1) * dim), head * dim)
  return toTensor({ shape: [heads, dim], data })
}

/** The method as it is, but with the first centroids of the case. */
function withFirst(compressor: KVCompressor, golden: GoldenCase, first: NdArray): KVCompressor {
  const iterations = numberOption(golden, 'iterations')
  const given = (keys: Tensor): Promise<Tensors> => clusterKeys(keys, Int32Array.from(first.data), iterations)
  return {
    ...compressor,
    stages: compressor.stages.map((stage) =>
      stage.kind === 'recall' ? { ...stage, bind: (site) => ({ ...stage.bind(site), index: given }) } : stage,
    ),
  }
}

/** Outputs `[queryHeads, dim]` of a real cache at these positions, the tokens after the prompt decoded one by one. */
async function outputsOfCache(
  compressor: KVCompressor,
  rows: Rows,
  prompt: number,
  positions: readonly number[],
): Promise<ReadonlyMap<number, NdArray>> {
  const cache = openExact(compressor, modelOf(rows))
  const outputs = new Map<number, NdArray>()
  try {
    await feed(cache, rows, 0, prompt, 'promptEnd')
    for (let position = prompt; position <= Math.max(...positions); position++) {
      const { shape, data } = await feed(cache, rows, position, 1, 'decode')
      outputs.set(position, { shape: [shape[0] ?? 0, shape[2] ?? 0], data })
    }
  } finally {
    cache.dispose()
  }
  return outputs
}

/** Attention of every query head over the sinks, its selected rows and what follows the prompt. */
function attentionOf(
  rows: Rows,
  selected: NdArray,
  sink: number,
  prompt: number,
  position: number,
  arena: Arena,
): NdArray {
  const { queryHeads, kvHeads, keyDim, valueDim, attentionScale } = modelOf(rows)
  const tokens = rows.keys.shape[1] ?? 0
  const count = selected.shape[1] ?? 0
  const data = new Float32Array(queryHeads * valueDim)
  const pick = ({ data }: NdArray, head: number, dim: number, read: readonly number[]): Tensor => {
    const values = new Float32Array(read.length * dim)
    for (const [i, row] of read.entries())
      values.set(data.subarray((head * tokens + row) * dim, (head * tokens + row + 1) * dim), i * dim)
    return arena.own(tensor3d(values, [1, read.length, dim]))
  }
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
  for (let head = 0; head < queryHeads; head++) {
    const own = selected.data.subarray(head * count, (head + 1) * count)
    const read = [...range(0, sink), ...own, ...range(prompt, position + 1)]
    const kvHead = Math.floor((head * kvHeads) / queryHeads)
    const segment = (tensor: Tensor) => ({
      layout: { kind: 'dense', store: 'f32' } as const,
      tensors: [tensor],
      from: 0,
      rows: read.length,
    })
    const { output } = pagedAttention({
      queries: [pick(rows.queries, head, keyDim, [position])],
      keys: [segment(pick(rows.keys, kvHead, keyDim, read))],
      values: [segment(pick(rows.values, kvHead, valueDim, read))],
      kvHeads: 1,
      scale: attentionScale,
      causal: false,
      keyDim,
      valueDim,
    })
    data.set(arena.own(output).dataSync<'float32'>(), head * valueDim)
  }
  return { shape: [queryHeads, valueDim], data }
}

/** Hit rates of consecutive queries after the prompt, when every head takes as many clusters as the neediest. */
async function hitRates(golden: GoldenCase): Promise<TensorResult[]> {
  const rows = await rowsOf(golden)
  const [prompt, sink] = [numberOption(golden, 'prompt_tokens'), numberOption(golden, 'sink')]
  const count = Math.min(numberOption(golden, 'budget'), prompt) - sink
  return withArena(async (arena) => {
    const index = await indexOf(golden, sink, prompt - sink, arena)
    const listed: number[][][] = []
    for (let step = 0; step < numberOption(golden, 'steps'); step++) {
      const ranking = await rankClusters(arena.own(queriesAt(rows, prompt + step)), [index])
      const needed = Math.max(...(await clustersNeeded(ranking, [index], count)))
      const heads = ranking.order.length / ranking.clusters
      listed.push(
        Array.from({ length: heads }, (_, head) => [
          ...ranking.order.subarray(head * ranking.clusters, head * ranking.clusters + needed),
        ]),
      )
    }
    const tensors: TensorResult[] = []
    for (const [name, expected] of Object.entries(golden.scalars)) {
      const remembered = /^hit_rate_R(\d+)$/.exec(name)?.[1]
      if (remembered !== undefined) {
        const n = Number(remembered)
        const rates = listed.slice(n).map((step, i) => hitRate(step, listed.slice(i, i + n)))
        tensors.push(
          compareArrays(name, listOf(rates, Float32Array), listOf(expected as readonly number[], Float32Array), RATE),
        )
      } else if (name === 'clusters_per_step') {
        const perStep = listed.map(([first]) => first?.length ?? 0)
        tensors.push(compareArrays(name, listOf(perStep), listOf(expected as readonly number[]), EXACT))
      }
    }
    return tensors
  })
}
