/** Cases made by the authors' ThinK and by NVIDIA/kvpress: channels chosen at the end of a prompt, then one decode step. */

import { type KVCompressor, type ModelShape, siteOf, stagesOn, upload } from '@kvloom/core'
import {
  type Arena,
  type CaseAdapter,
  compareArrays,
  compareKept,
  compareNamed,
  feed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  openExact,
  type Rows,
  sliceLikeNumpy,
  type TensorResult,
  textOption,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { concat, matMul, mul, reshape, slice, softmax, tidy } from '@tensorflow/tfjs-core'
import { channelScores, think } from '../src/think'

/** Scores closer than this, relative to each other, tie: float32 sums in another order. */
const SCORE_TIE = { abs: 0, rel: 1e-6 }

/** ThinK against its authors' data and kvpress. */
export const adapter: CaseAdapter = { method: 'think', run: runCase }

async function runCase(golden: GoldenCase): Promise<Outcome | null> {
  const gqa = textOption(golden, 'gqa', 'mean')
  if (!(gqa === 'mean' || gqa === 'repeat')) return null
  const window = numberOption(golden, 'observationWindow', 32)
  const recent = numberOption(golden, 'recentSize', 32)
  const compressor = think({ prune: numberOption(golden, 'pruneRatio'), window, recent })
  const rows = await rowsOf(golden, window, gqa === 'repeat')
  const results = await run(compressor, rows, recent)

  const tied = await tiedScores(golden)
  const tensors: TensorResult[] = []
  const others: string[] = []
  for (const name of golden.expects) {
    const result = results[name]
    if (!result || !CHOICES.includes(name)) others.push(name)
    else if (name === 'prunedCount') tensors.push(...comparePruned(name, result, await golden.expected(name)))
    else {
      const kept = (x: NdArray) => (name === 'keptMask' ? channelsOf(x) : x)
      tensors.push(compareKept(name, kept(result), kept(await golden.expected(name)), tied, SCORE_TIE))
    }
  }
  tensors.push(...(await compareNamed({ ...golden, expects: others }, results)))
  if (golden.expects.includes('decodeOutput') && rows.next)
    tensors.push(
      compareArrays(
        'decodeOutput (cache)',
        await throughCache(compressor, rows.queries, rows.keys, rows.next),
        await golden.expected('decodeOutput'),
        golden.tolerance('decodeOutput'),
      ),
    )
  return { tensors }
}

/** Expected tensors that are a choice of channels. */
const CHOICES = ['keptChannels', 'keptMask', 'prunedCount']

/** Keys, values `[heads, T, dim]` and the last queries `[queryHeads, window, dim]` of the prompt; where given, the next token. */
interface StepRows {
  readonly queries: NdArray
  readonly keys: NdArray
  readonly next: NextToken | null
}

/** The token after the prompt, query `[queryHeads, dim]`, key and value `[heads, dim]`, and the prompt's values. */
interface NextToken {
  readonly query: NdArray
  readonly key: NdArray
  readonly value: NdArray
  readonly values: NdArray
}

/** With `repeat` keys and values are those of a model in which every query head has its own KV head, as the authors run it. */
async function rowsOf(golden: GoldenCase, window: number, repeat: boolean): Promise<StepRows> {
  const queries = sliceLikeNumpy(await golden.input('queryWindow'), `:, -${window}:`)
  const queryHeads = queries.shape[0] ?? 0
  const read = async (name: string) => {
    const x = await golden.input(name)
    return repeat ? repeatHeads(x, queryHeads) : x
  }
  const keys = await read('keys')
  if (!golden.has('nextQuery')) return { queries, keys, next: null }
  return {
    queries,
    keys,
    next: {
      query: await golden.input('nextQuery'),
      key: await read('nextKey'),
      value: await read('nextValue'),
      values: await read('values'),
    },
  }
}

/** The stage by itself, in the order of the cache: fit on the prompt, encode what leaves the recent window, attend with the next token. */
async function run(compressor: KVCompressor, rows: StepRows, recent: number): Promise<Record<string, NdArray>> {
  const model = modelOf({ queries: rows.queries, keys: rows.keys, values: rows.next?.values ?? rows.keys })
  return withArena(async (arena) => {
    const transform = transformOf(compressor, model, arena)
    const [keys, queries] = [arena.own(toTensor(rows.keys)), arena.own(toTensor(rows.queries))]
    const [, tokens = 0, dim = 0] = keys.shape
    const state = tidy(() => transform.fitOnline?.(keys, { queries }) ?? {})
    const { channels } = state
    if (!channels) throw new GoldenError('think no longer fits channels at the end of a prompt.')
    arena.own(channels)
    const kept = await fromTensor(channels)
    const results: Record<string, NdArray> = {
      score: await fromTensor(arena.own(tidy(() => channelScores(queries, keys)))),
      keptChannels: kept,
      keptMask: maskOf(kept, dim),
      prunedCount: prunedOf(kept, dim),
    }
    const { next } = rows
    if (!next) return results
    const old = Math.max(0, tokens - recent)
    const { logits, output } = tidy(() => {
      const query = mul(toTensor(next.query), model.attentionScale) // [queryHeads, dim]
      const perHead = reshape(query, [model.kvHeads, model.queryHeads / model.kvHeads, dim]) // [heads, group, dim]
      const row = (x: NdArray) => reshape(toTensor(x), [model.kvHeads, 1, -1])
      const dense = concat([slice(keys, [0, old, 0], [-1, tokens - old, -1]), row(next.key)], 1)
      const parts = [matMul(perHead, dense, false, true)]
      if (old > 0) {
        const { main } = transform.encode([slice(keys, [0, 0, 0], [-1, old, -1])], state)
        const { up } = transform.decoder(state, 0)
        if (!up) throw new GoldenError('think no longer decodes by a map.')
        parts.unshift(matMul(matMul(perHead, up, false, true), main, false, true))
      }
      const logits = concat(parts, 2) // [heads, group, T + 1]
      const values = concat([toTensor(next.values), row(next.value)], 1)
      const output = matMul(softmax(logits), values)
      return {
        logits: reshape(logits, [model.queryHeads, tokens + 1]),
        output: reshape(output, [model.queryHeads, model.valueDim]),
      }
    })
    results['decodeLogits'] = await fromTensor(arena.own(logits))
    results['decodeOutput'] = await fromTensor(arena.own(output))
    return results
  })
}

/** The next token's output `[queryHeads, valueDim]` of a real cache; queries before the window matter to nobody and are zero. */
async function throughCache(
  compressor: KVCompressor,
  window: NdArray,
  keys: NdArray,
  next: NextToken,
): Promise<NdArray> {
  const tokens = keys.shape[1] ?? 0
  const rows: Rows = {
    queries: followed(window, next.query, tokens),
    keys: followed(keys, next.key, tokens),
    values: followed(next.values, next.value, tokens),
  }
  const cache = openExact(compressor, modelOf(rows))
  try {
    await feed(cache, rows, 0, tokens, 'promptEnd')
    const { shape, data } = await feed(cache, rows, tokens, 1, 'decode')
    return { shape: [shape[0] ?? 0, shape[2] ?? 0], data }
  } finally {
    cache.dispose()
  }
}

function transformOf(compressor: KVCompressor, model: ModelShape, arena: Arena) {
  const [stage] = stagesOn(compressor, 'transform', 0, 'keys')
  if (!stage) throw new GoldenError(`${compressor.card.name} does not transform keys.`)
  return stage.bind(siteOf(model, 0, 'keys', (table) => arena.own(upload(table))))
}

/** `[heads, n, dim]` as the last of `tokens` rows, zeros before them, and one row `[heads, dim]` behind: `[heads, tokens + 1, dim]`. */
function followed(rows: NdArray, last: NdArray, tokens: number): NdArray {
  const [heads = 0, n = 0, dim = 0] = rows.shape
  const data = new Float32Array(heads * (tokens + 1) * dim)
  for (let head = 0; head < heads; head++) {
    const end = (head + 1) * (tokens + 1) * dim
    data.set(rows.data.subarray(head * n * dim, (head + 1) * n * dim), end - (n + 1) * dim)
    data.set(last.data.subarray(head * dim, (head + 1) * dim), end - dim)
  }
  return { shape: [heads, tokens + 1, dim], data }
}

/** `[heads, ...]` with every head as often as query heads share it. */
function repeatHeads(x: NdArray, heads: number): NdArray {
  const [from = 1, ...rest] = x.shape
  const size = x.data.length / from
  const data = new Float32Array(heads * size)
  for (let head = 0; head < heads; head++) {
    const source = Math.floor((head * from) / heads)
    data.set(x.data.subarray(source * size, (source + 1) * size), head * size)
  }
  return { shape: [heads, ...rest], data }
}

/** 1 where a channel is kept, `[heads, dim]`. */
function maskOf(kept: NdArray, dim: number): NdArray {
  const [heads = 0, count = 0] = kept.shape
  const data = new Uint8Array(heads * dim)
  kept.data.forEach((channel, at) => {
    data[Math.floor(at / count) * dim + channel] = 1
  })
  return { shape: [heads, dim], data }
}

/** The inverse of `maskOf`; heads that keep different numbers end in -1. */
function channelsOf(mask: NdArray): NdArray {
  const [heads = 0, dim = 0] = mask.shape
  const rows = Array.from({ length: heads }, (_, head) =>
    Array.from({ length: dim }, (_, channel) => channel).filter((channel) => mask.data[head * dim + channel]),
  )
  const width = Math.max(0, ...rows.map((row) => row.length))
  const data = rows.flatMap((row) => Array.from({ length: width }, (_, i) => row[i] ?? -1))
  return { shape: [heads, width], data: Int32Array.from(data) }
}

/** How many channels of each head are gone, `[heads]`. */
function prunedOf(kept: NdArray, dim: number): NdArray {
  const [heads = 0, count = 0] = kept.shape
  const distinct = (head: number) => new Set(kept.data.subarray(head * count, (head + 1) * count)).size
  return { shape: [heads], data: Int32Array.from({ length: heads }, (_, head) => dim - distinct(head)) }
}

/** One count stands for every head. */
function comparePruned(name: string, counts: NdArray, expected: NdArray): TensorResult[] {
  if (expected.data.length !== 1) return [compareArrays(name, counts, expected, {})]
  return Array.from(counts.data, (count, head) =>
    compareArrays(
      head === 0 ? name : `${name} (head ${head})`,
      { shape: [1], data: Int32Array.of(count) },
      expected,
      {},
    ),
  )
}

/** Expected scores where a choice at the cut is open: any of the tied channels is right. */
async function tiedScores(golden: GoldenCase): Promise<NdArray | undefined> {
  const gap = golden.scalars['smallestRelativeScoreGapAtCut']
  const open = typeof gap === 'number' && gap <= SCORE_TIE.rel
  return open && golden.expects.includes('score') ? golden.expected('score') : undefined
}
