/** Cases made by NVIDIA/kvpress: eviction once, at the end of the prompt. `compression_ratio` is the fraction removed. */
import { type KVCompressor, stagesOn } from '@kvloom/core'
import type { NdArray } from '../array'
import { compareArrays, type TensorResult, wrong } from '../compare'
import { compareKept } from '../kept'
import type { GoldenCase } from '../schema'
import { bestOf, keptByCache, keysSite, modelOf, type Rows, rowsOf, scorerOf, scoresOf } from './eviction'
import { numberOption, numbersOption, textOption } from './options'
import type { Adapter, GoldenMethods } from './types'

/** A press as a method with these options, keeping a fraction. */
type Press = (golden: GoldenCase, methods: GoldenMethods, keep: number) => KVCompressor | undefined

const PRESSES: Readonly<Record<string, Press>> = {
  knorm: (_, { l2Norm }, keep) => l2Norm?.({ keep, rounding: 'trunc', skipLayers: [], pruneAfter: 0 }),
  snapkv: (golden, { snapkv }, keep) =>
    snapkv?.({ keep, window: numberOption(golden, 'window_size', 64), kernel: numberOption(golden, 'kernel_size', 5) }),
  streamingllm: (golden, { streamingLlm }, keep) => streamingLlm?.({ keep, sinks: numberOption(golden, 'n_sink', 4) }),
  tova: (_, { tova }, keep) => tova?.({ keep }),
}

export const kvpress: Adapter = async (golden, methods) => {
  const press = textOption(golden, 'press', '')
  if (press === 'any') return keptCounts(golden, methods)
  const create = PRESSES[press]
  if (!create) return null
  const rows = await rowsOf(golden)
  const tensors: TensorResult[] = []
  for (const [i, ratio] of numbersOption(golden, 'compression_ratios').entries()) {
    const compressor = create(golden, methods, 1 - ratio)
    if (!compressor) return null
    const suffix = suffixOf(golden, ratio)
    // Where the score depends on the ratio, `scores` belongs to the first.
    const scoresName = golden.expects.includes(`scores_${suffix}`) ? `scores_${suffix}` : 'scores'
    const stage = await byStage(compressor, rows)
    if (golden.expects.includes(scoresName) && (scoresName !== 'scores' || i === 0))
      tensors.push(
        compareArrays(scoresName, stage.scores, await golden.expected(scoresName), golden.tolerance('scores')),
      )
    const keptName = `kept_${suffix}`
    if (!golden.expects.includes(keptName)) continue
    const expected = await golden.expected(keptName)
    const tied =
      isUnique(golden, suffix) || !golden.expects.includes(scoresName) ? undefined : await golden.expected(scoresName)
    tensors.push(compareKept(`${keptName} (stage)`, stage.kept, expected, tied))
    tensors.push(compareKept(keptName, await keptByCache(compressor, rows), expected, tied))
  }
  const done = new Set(tensors.map(({ name }) => name))
  for (const name of golden.expects) if (!done.has(name)) tensors.push(wrong(name, 'no result for this name'))
  return { tensors }
}

/** Scores `[kvHeads, tokens]` and kept positions `[kvHeads, kept]` of a stage by itself. */
async function byStage(compressor: KVCompressor, rows: Rows): Promise<{ scores: NdArray; kept: NdArray }> {
  const model = modelOf(rows)
  const tokens = rows.keys.shape[1] ?? 0
  const [pick] = stagesOn(compressor, 'pick', 0)
  if (!pick) {
    const scorer = scorerOf(compressor, model)
    const scores = await scoresOf(scorer, rows)
    return {
      scores: onEveryHead(scores, model.kvHeads),
      kept: await bestOf(scores, scorer.count(tokens), model.kvHeads),
    }
  }
  const bound = pick.bind(keysSite(model, 0))
  const rangesOf = (count: number) => {
    const kept = bound.keep(tokens, count, null, {})
    return Array.isArray(kept) ? (kept as readonly { start: number; end: number }[]) : []
  }
  const positions = (count: number) =>
    rangesOf(count).flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i))
  const count = bound.count(tokens, 0)
  // The press scores every sink 1, also where fewer tokens than that are kept.
  const sinks = Number((pick.options as { readonly sinks?: number }).sinks ?? 0)
  const marks = new Float32Array(tokens)
  for (const position of positions(Math.max(count, Math.min(sinks, tokens)))) marks[position] = 1
  const kept = Int32Array.from(positions(count))
  return {
    scores: onEveryHead({ shape: [1, tokens], data: marks }, model.kvHeads),
    kept: onEveryHead({ shape: [1, kept.length], data: kept }, model.kvHeads),
  }
}

/** `[1, n]` repeated to `[heads, n]`. */
function onEveryHead(x: NdArray, heads: number): NdArray {
  if (x.shape[0] === heads) return x
  const n = x.shape[1] ?? 0
  const data = x.data instanceof Float32Array ? new Float32Array(heads * n) : new Int32Array(heads * n)
  for (let head = 0; head < heads; head++) data.set(x.data, head * n)
  return { shape: [heads, n], data }
}

/** `r25` of 0.25; a ratio that is no whole per cent is named by either neighbour. */
function suffixOf(golden: GoldenCase, ratio: number): string {
  const names = [Math.round(ratio * 100), Math.floor(ratio * 100), Math.ceil(ratio * 100)].map(
    (n) => `r${String(n).padStart(2, '0')}`,
  )
  return names.find((name) => golden.expects.includes(`kept_${name}`)) ?? names[0] ?? ''
}

function isUnique(golden: GoldenCase, suffix: string): boolean {
  const cut = golden.scalars['cut'] as Readonly<Record<string, { readonly unique?: boolean }>> | undefined
  return cut?.[suffix]?.unique ?? true
}

/** Rows of [tokens, ratio, kept]: what every press keeps of so many tokens. */
async function keptCounts(golden: GoldenCase, methods: GoldenMethods): ReturnType<Adapter> {
  const rows = golden.scalars['rows'] as readonly (readonly [number, number, number])[]
  const known = Object.entries({ l2Norm: methods.l2Norm, tova: methods.tova, streamingLlm: methods.streamingLlm })
  const tensors: TensorResult[] = []
  for (const [name, create] of known) {
    if (!create) continue
    const counts = rows.map(([tokens, ratio]) => {
      const options = name === 'l2Norm' ? { rounding: 'trunc', skipLayers: [] } : {}
      return ratio < 1 ? countOf(create({ keep: 1 - ratio, ...options }), tokens) : 0
    })
    const array = (data: readonly number[]): NdArray => ({ shape: [data.length], data: Int32Array.from(data) })
    tensors.push(compareArrays(`counts (${name})`, array(counts), array(rows.map(([, , kept]) => kept)), {}))
  }
  return tensors.length > 0 ? { tensors } : null
}

function countOf(compressor: KVCompressor, tokens: number): number {
  const shape = { shape: [1, 1, 1], data: new Float32Array(1) }
  const site = keysSite(modelOf({ queries: shape, keys: shape, values: shape }), 0)
  const [scorer] = stagesOn(compressor, 'score', 0)
  const [pick] = stagesOn(compressor, 'pick', 0)
  return scorer?.bind(site).count(tokens) ?? pick?.bind(site).count(tokens, 0) ?? tokens
}
