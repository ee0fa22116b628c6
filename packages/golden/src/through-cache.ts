/** Helpers for adapters: they send rows through a whole cache, or run an eviction stage on observations that the kernels make. */
import {
  floorOf,
  type KVCache,
  type KVCompressor,
  type ModelShape,
  type Observation,
  openCache,
  type Phase,
  type Protected,
  type Rope,
  ready,
  type Scorer,
  type Site,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { attentionMass, selectTop } from '@kvloom/kernels'
import { dispose, slice, type Tensor, tidy, tile } from '@tensorflow/tfjs-core'
import { Arena, withArena } from './arena'
import { fromTensor, type NdArray, toTensor } from './array'
import { GoldenError } from './errors'
import type { GoldenCase } from './schema'

/** The rows of one layer, with keys and queries after RoPE. */
export interface Rows {
  readonly queries: NdArray
  readonly keys: NdArray
  readonly values: NdArray
  /** How queries and keys were rotated, for methods that turn them back. Absent when they count as never rotated. */
  readonly rope?: Rope
  /** The token of every row. Absent when every token is 0. */
  readonly tokenIds?: Int32Array
}

/** Reads the inputs q, k, v of a case. Where a method needs no queries or values, the keys stand in for them. */
export async function rowsOf(golden: GoldenCase): Promise<Rows> {
  const keys = await golden.input('k')
  return {
    keys,
    queries: golden.has('q') ? await golden.input('q') : keys,
    values: golden.has('v') ? await golden.input('v') : keys,
  }
}

/** Makes a model for these rows. Where they name no RoPE it does not rotate, since they are rotated already. */
export function modelOf(rows: Rows, layers = 1): ModelShape {
  const [queryHeads = 0] = rows.queries.shape
  const [kvHeads = 0, , keyDim = 0] = rows.keys.shape
  return {
    name: 'golden',
    layers,
    queryHeads,
    kvHeads,
    keyDim,
    valueDim: rows.values.shape[2] ?? 0,
    contextLength: Number.MAX_SAFE_INTEGER,
    rope: rows.rope ?? null,
    attentionScale: 1 / Math.sqrt(keyDim),
    fingerprint: 'golden',
  }
}

export const keysSite = (model: ModelShape, layer: number): Site => siteOf(model, layer, 'keys')

/** The scorer of a compressor, bound to a layer. */
export function scorerOf(compressor: KVCompressor, model: ModelShape, layer = 0): Scorer {
  const [stage] = stagesOn(compressor, 'score', layer)
  if (!stage) throw new GoldenError(`${compressor.card.name} has no scorer on layer ${layer}.`)
  return stage.bind(keysSite(model, layer))
}

/**
 * Scores the first `tokens` rows from observations that the kernels make. @returns `[kvHeads, tokens]` or `[1, tokens]`; protected rows have
 * the largest score plus 1, which is how the authors' code keeps them
 */
export async function scoresOf(scorer: Scorer, rows: Rows, tokens = rows.keys.shape[1] ?? 0): Promise<NdArray> {
  return withArena(async (arena) => {
    const seen: Record<string, Tensor> = {}
    for (const [name, what] of Object.entries(scorer.needs)) seen[name] = arena.own(observe(what, rows, tokens))
    const scored = tidy(() => {
      const result = scorer.score(seen, {}, { phase: 'promptEnd', tokensSeen: tokens })
      return 'scores' in result ? result.scores : result
    })
    return aboveAll(await fromTensor(arena.own(scored)), scorer.protect)
  })
}

function aboveAll(scores: NdArray, { first = 0, last = 0 }: Protected = {}): NdArray {
  const [heads = 0, tokens = 0] = scores.shape
  const free = (at: number) => at % tokens >= first && at % tokens < tokens - last
  let top = Number.NEGATIVE_INFINITY
  for (const [at, x] of scores.data.entries()) if (free(at)) top = Math.max(top, x)
  const above = Number.isFinite(top) ? top + 1 : 1
  const data = Float32Array.from({ length: heads * tokens }, (_, at) => (free(at) ? (scores.data[at] ?? 0) : above))
  return { shape: scores.shape, data }
}

/** How many of `tokens` rows a scorer or a pick keeps, the promised ones included. */
export const keptOf = (stage: Pick<Scorer, 'protect'>, count: number, tokens: number): number =>
  Math.max(count, floorOf(tokens, stage.protect))

/** The attention `[queryHeads, tokens]` of the last query to every row. */
export function lastAttention(rows: Rows, arena: Arena): Tensor {
  return arena.own(observe({ of: 'attention', queries: 1, reduce: 'sum' }, rows, rows.keys.shape[1] ?? 0))
}

function observe(what: Observation, rows: Rows, tokens: number): Tensor {
  const model = modelOf(rows)
  const arena = new Arena()
  const first = (x: NdArray): Tensor => {
    const [heads = 0, , dim = 0] = x.shape
    return arena.own(slice(arena.own(toTensor(x)), [0, 0, 0], [heads, tokens, dim]))
  }
  try {
    switch (what.of) {
      case 'keys':
      case 'values':
        return slice(first(rows[what.of]), [0, 0, 0], [-1, -1, -1])
      case 'queries': {
        const [from, count] = [Math.max(0, tokens - what.last), Math.min(tokens, what.last)]
        return slice(first(rows.queries), [0, from, 0], [-1, count, -1])
      }
      case 'attention': {
        const [keys, all] = [first(rows.keys), first(rows.queries)]
        const last = what.queries === 'all' ? tokens : Math.min(tokens, what.queries)
        const queries = arena.own(slice(all, [0, tokens - last, 0], [model.queryHeads, last, model.keyDim]))
        return attentionMass({
          queries: [queries],
          keys: [{ layout: { kind: 'dense', store: 'f32' }, tensors: [keys], from: 0, rows: tokens }],
          kvHeads: model.kvHeads,
          scale: model.attentionScale,
          causal: true,
          reduce: what.reduce,
        })
      }
      default:
        throw new GoldenError(`Golden adapters cannot show ${what.of}.`)
    }
  } finally {
    arena.dispose()
  }
}

/** The positions `[kvHeads, count]` of the best scores, chosen by the kernel with which core evicts. */
export async function bestOf(scores: NdArray, count: number, kvHeads: number): Promise<NdArray> {
  return withArena(async (arena) => {
    const best = arena.own(selectTop(arena.own(toTensor(scores)), count))
    return fromTensor(arena.own(tile(best, [kvHeads / (scores.shape[0] ?? 1), 1])))
  })
}

/**
 * Feeds rows `from ... from + count` to every layer of a cache: the same to all, or to each its own.
 * @returns the last layer's output `[queryHeads, count, valueDim]`
 */
export async function feed(
  cache: KVCache,
  rows: Rows | readonly Rows[],
  from: number,
  count: number,
  phase: Phase,
): Promise<NdArray> {
  const layers = 'queries' in rows ? [rows] : rows
  const part = (x: NdArray, arena: Arena): Tensor => {
    const [heads = 0, , dim = 0] = x.shape
    return arena.own(slice(arena.own(toTensor(x)), [0, from, 0], [heads, count, dim]))
  }
  return withArena(async (arena) => {
    const given = layers.map(({ queries, keys, values }) => ({
      queries: part(queries, arena),
      keys: part(keys, arena),
      values: part(values, arena),
    }))
    cache.begin(layers[0]?.tokenIds?.slice(from, from + count) ?? new Int32Array(count), phase)
    let output: Tensor | undefined
    for (let layer = 0; layer < cache.model.layers; layer++) {
      const now = given.length === 1 ? given[0] : given[layer]
      if (!now) throw new GoldenError(`There are rows for ${given.length} layers, not for layer ${layer}.`)
      output?.dispose()
      output = await cache.attend(layer, now)
    }
    await cache.commit()
    if (!output) throw new GoldenError('A model without layers.')
    return fromTensor(arena.own(output))
  })
}

/** The positions `[kvHeads, kept]` that a layer of a cache holds. */
export async function rowsHeldBy(cache: KVCache, layer: number): Promise<NdArray> {
  const { keys, values, positions } = await cache.materialize(layer)
  dispose([keys, values])
  // A dropped row that its block still holds has position -1.
  const heads = positions.map((head) => [...head].filter((p) => p >= 0))
  return { shape: [heads.length, heads[0]?.length ?? 0], data: Int32Array.from(heads.flat()) }
}

/** The positions that each KV head of a layer holds, which may be different numbers of them. */
export async function heldByHead(cache: KVCache, layer: number): Promise<readonly (readonly number[])[]> {
  const held: number[][] = []
  for (const [lane, { heads }] of cache.segments(layer).entries()) {
    const { keys, values, positions } = await cache.materialize(layer, lane)
    dispose([keys, values])
    for (const [i, own] of positions.entries()) held[heads[i] ?? 0] = [...own].filter((position) => position >= 0)
  }
  return held
}

/** The positions that `layer` holds after a prompt of all rows, in a real cache with exact f32 rows. */
export async function keptByCache(compressor: KVCompressor, rows: Rows, layer = 0): Promise<NdArray> {
  const cache = openExact(compressor, modelOf(rows, layer + 1))
  try {
    await feed(cache, beforeRope(rows), 0, rows.keys.shape[1] ?? 0, 'promptEnd')
    return await rowsHeldBy(cache, layer)
  } finally {
    cache.dispose()
  }
}

/** Marks the rows `[kvHeads, tokens]` that a real cache of one layer keeps of a prompt of all rows. Heads may keep different numbers of them. */
export async function maskByCache(compressor: KVCompressor, rows: Rows): Promise<NdArray> {
  const [heads = 0, tokens = 0] = rows.keys.shape
  const cache = openExact(compressor, modelOf(rows))
  try {
    await feed(cache, beforeRope(rows), 0, tokens, 'promptEnd')
    const mask = new Int32Array(heads * tokens)
    for (const [head, held] of (await heldByHead(cache, 0)).entries())
      for (const position of held) mask[head * tokens + position] = 1
    return { shape: [heads, tokens], data: mask }
  } finally {
    cache.dispose()
  }
}

/** Turns queries and keys back to before RoPE, as a cache takes them. Row t stands at position t. */
export function beforeRope(rows: Rows): Rows {
  const { rope } = rows
  if (!rope) return rows
  const back = ({ shape, data }: NdArray): NdArray => {
    const [heads = 0, tokens = 0, dim = 0] = shape
    const [turned, pairs] = [Float32Array.from(data), rope.dim / 2]
    for (let row = 0; row < heads * tokens; row++)
      for (let j = 0; j < pairs; j++) {
        const angle = (row % tokens) * (rope.frequencies[j] ?? 0)
        const [cos, sin] = [Math.cos(angle) / rope.attentionFactor, Math.sin(angle) / rope.attentionFactor]
        const [a, b] = [data[row * dim + j] ?? 0, data[row * dim + pairs + j] ?? 0]
        turned[row * dim + j] = a * cos + b * sin
        turned[row * dim + pairs + j] = b * cos - a * sin
      }
    return { shape, data: turned }
  }
  return { ...rows, queries: back(rows.queries), keys: back(rows.keys) }
}

/** Makes the RoPE of a base, over all channels. */
export const ropeOf = (theta: number, dim: number): Rope => ({
  dim,
  frequencies: Float64Array.from({ length: dim / 2 }, (_, j) => theta ** ((-2 * j) / dim)),
  attentionFactor: 1,
})

/** Opens a cache whose exact rows are f32, as golden data is. */
export const openExact = (compressor: KVCompressor, model: ModelShape): KVCache =>
  openCache(model, ready(window({ store: 'f32' }, compressor)))
