/** Runs cases that NVIDIA/kvpress made: an eviction once, at the end of the prompt. Their `compression_ratio` is the fraction that goes. */
import { type KVCompressor, stagesOn } from '@kvloom/core'
import type { CaseAdapter, Outcome, Press, Presses } from './adapter'
import { withArena } from './arena'
import { type NdArray, toTensor } from './array'
import { numberOption, numbersOption, textOption } from './case-options'
import { compareArrays, type TensorResult, wrong } from './compare'
import { compareKept, compareMask, TIE } from './kept'
import type { GoldenCase } from './schema'
import {
  bestOf,
  keptByCache,
  keptOf,
  keysSite,
  maskByCache,
  modelOf,
  type Rows,
  ropeOf,
  rowsOf,
  scorerOf,
  scoresOf,
} from './through-cache'

/** The adapter of all cases that kvpress made. Each case is run by the press that it names. */
export const pressCases = (presses: Presses): CaseAdapter => ({
  method: 'kvpress',
  async run(golden) {
    const name = textOption(golden, 'press', '')
    if (name === 'any') return keptCounts(golden, presses)
    const press = presses.get(name)
    return press ? runPress(golden, press, presses) : null
  },
})

async function runPress(golden: GoldenCase, press: Press, presses: Presses): Promise<Outcome | null> {
  const rows = await rotatedRows(golden)
  const tensors: TensorResult[] = await moreOf(golden, press, rows)
  for (const [i, ratio] of numbersOption(golden, 'compression_ratios').entries()) {
    const compressor = press.make(golden, 1 - ratio, presses)
    if (!compressor) return null
    const suffix = suffixOf(golden, ratio)
    // Where scores depend on the ratio, the expected `scores` are those of the first ratio.
    const scoresName = golden.expects.includes(`scores_${suffix}`) ? `scores_${suffix}` : 'scores'
    const stage = await byStage(compressor, rows)
    if (golden.expects.includes(scoresName) && (scoresName !== 'scores' || i === 0))
      tensors.push(
        compareArrays(scoresName, stage.scores, await golden.expected(scoresName), golden.tolerance('scores')),
      )
    const maskName = `mask_${suffix}`
    if (golden.expects.includes(maskName)) {
      const expected = await golden.expected(maskName)
      const scores = isSeparate(golden, suffix) ? undefined : stage.scores
      tensors.push(
        compareMask(`${maskName} (stage)`, await maskByStage(compressor, rows, stage.scores), expected, scores),
      )
      tensors.push(compareMask(maskName, await maskByCache(compressor, rows), expected, scores))
    }
    const keptName = `kept_${suffix}`
    if (!golden.expects.includes(keptName)) continue
    const expected = await golden.expected(keptName)
    const tied =
      isUnique(golden, suffix) || !golden.expects.includes(scoresName) ? undefined : await golden.expected(scoresName)
    const compare = promisedBeyond(compressor, rows, expected) ?? compareKept
    tensors.push(compare(`${keptName} (stage)`, stage.kept, expected, tied))
    tensors.push(compare(keptName, await keptByCache(compressor, rows), expected, tied))
  }
  const done = new Set(tensors.map(({ name }) => name))
  for (const name of golden.expects) if (!done.has(name)) tensors.push(wrong(name, 'no result for this name'))
  return { tensors }
}

/** The rows of a case, with their RoPE where the case names its base. */
async function rotatedRows(golden: GoldenCase): Promise<Rows> {
  const rows = await rowsOf(golden)
  if (golden.options['rope_theta'] === undefined) return rows
  return { ...rows, rope: ropeOf(numberOption(golden, 'rope_theta'), rows.keys.shape[2] ?? 0) }
}

/** Compares what a case expects beside scores and kept tokens, where its press makes it. */
async function moreOf(golden: GoldenCase, { more }: Press, rows: Rows): Promise<TensorResult[]> {
  return more && golden.expects.some((name) => more.names.includes(name)) ? more.results(golden, rows) : []
}

/** Marks the rows `[kvHeads, tokens]` that each KV head keeps where a budget stage shares them out by these scores. */
async function maskByStage(compressor: KVCompressor, rows: Rows, scores: NdArray): Promise<NdArray> {
  const model = modelOf(rows)
  const [heads = 0, tokens = 0] = scores.shape
  const [stage] = stagesOn(compressor, 'budget', 0)
  const scorer = scorerOf(compressor, model)
  const uniform = keptOf(scorer, scorer.count(tokens, tokens), tokens)
  const share = { rows: tokens, seen: tokens, uniform, floor: keptOf(scorer, 0, tokens) }
  const perHead = Array.from({ length: heads }, (_, head) => ({
    shape: [1, tokens],
    data: scores.data.slice(head * tokens, (head + 1) * tokens),
  }))
  const counts = await withArena(async (arena) =>
    stage?.bind(keysSite(model, 0)).counts(
      perHead.map((own) => arena.own(toTensor(own))),
      uniform,
      perHead.map(() => share),
    ),
  )
  const mask = new Int32Array(heads * tokens)
  for (const [head, own] of perHead.entries())
    for (const token of (await bestOf(own, counts?.[head] ?? uniform, 1)).data) mask[head * tokens + token] = 1
  return { shape: [heads, tokens], data: mask }
}

/**
 * Compares a case in which a method promises more rows than the press keeps, as with a window of 64 of 48 tokens. The press keeps some of
 * the promised rows, whichever come first, and the method keeps all of them. So the method must hold the promised rows and no others, and
 * the authors' tokens must be among them.
 */
function promisedBeyond(compressor: KVCompressor, rows: Rows, expected: NdArray): typeof compareKept | undefined {
  const tokens = rows.keys.shape[1] ?? 0
  const [scorer] = stagesOn(compressor, 'score', 0)
  const [pick] = stagesOn(compressor, 'pick', 0)
  const site = keysSite(modelOf(rows), 0)
  const { first = 0, last = 0 } = (scorer ?? pick)?.bind(site).protect ?? {}
  if (first + last <= (expected.shape.at(-1) ?? 0) || first + last > tokens) return undefined
  const all = Array.from({ length: tokens }, (_, i) => i).filter((i) => i < first || i >= tokens - last)
  const heads = expected.shape[0] ?? 0
  return (name, actual) => {
    if (!expected.data.every((token) => all.includes(token))) return wrong(name, 'a token that is not promised')
    const promised = { shape: [heads, all.length], data: Int32Array.from(Array(heads).fill(all).flat()) }
    const result = compareKept(name, actual, promised)
    return result.passed ? { ...result, where: `all ${all.length} that are promised` } : result
  }
}

/** Whether the data says that no two scores tie at the cut of this ratio, over all heads. */
function isSeparate(golden: GoldenCase, suffix: string): boolean {
  const gaps = golden.scalars['kept_per_head'] as Readonly<Record<string, unknown>> | undefined
  const gap = gaps?.[`${suffix}_gap`]
  return typeof gap === 'number' && gap > TIE.abs
}

/** Runs a stage by itself. @returns scores `[kvHeads, tokens]` and kept positions `[kvHeads, kept]` */
async function byStage(compressor: KVCompressor, rows: Rows): Promise<{ scores: NdArray; kept: NdArray }> {
  const model = modelOf(rows)
  const tokens = rows.keys.shape[1] ?? 0
  const [pick] = stagesOn(compressor, 'pick', 0)
  if (!pick) {
    const scorer = scorerOf(compressor, model)
    const scores = await scoresOf(scorer, rows)
    return {
      scores: onEveryHead(scores, model.kvHeads),
      kept: await bestOf(scores, keptOf(scorer, scorer.count(tokens, tokens), tokens), model.kvHeads),
    }
  }
  const bound = pick.bind(keysSite(model, 0))
  const now = { phase: 'promptEnd', tokensSeen: tokens, head: 0, memory: null } as const
  const rangesOf = (count: number) => {
    const kept = bound.keep(tokens, count, null, {}, now)
    return Array.isArray(kept) ? (kept as readonly { start: number; end: number }[]) : []
  }
  const positions = (count: number) =>
    rangesOf(count).flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i))
  const count = keptOf(bound, bound.count(tokens, 0), tokens)
  // The press gives every sink the score 1, also where it keeps fewer tokens than there are sinks.
  const sinks = Number((pick.options as { readonly sinks?: number }).sinks ?? 0)
  const marks = new Float32Array(tokens)
  for (const position of positions(Math.max(count, Math.min(sinks, tokens)))) marks[position] = 1
  const kept = Int32Array.from(positions(count))
  return {
    scores: onEveryHead({ shape: [1, tokens], data: marks }, model.kvHeads),
    kept: onEveryHead({ shape: [1, kept.length], data: kept }, model.kvHeads),
  }
}

/** Repeats `[1, n]` to `[heads, n]`. */
function onEveryHead(x: NdArray, heads: number): NdArray {
  if (x.shape[0] === heads) return x
  const n = x.shape[1] ?? 0
  const data = x.data instanceof Float32Array ? new Float32Array(heads * n) : new Int32Array(heads * n)
  for (let head = 0; head < heads; head++) data.set(x.data, head * n)
  return { shape: [heads, n], data }
}

/** The names that data may use for a ratio: `r25` for 0.25, and either neighbour for one that is no whole per cent. */
function suffixOf(golden: GoldenCase, ratio: number): string {
  const names = [Math.round(ratio * 100), Math.floor(ratio * 100), Math.ceil(ratio * 100)].map(
    (n) => `r${String(n).padStart(2, '0')}`,
  )
  const named = (name: string) => golden.expects.includes(`kept_${name}`) || golden.expects.includes(`mask_${name}`)
  return names.find(named) ?? names[0] ?? ''
}

function isUnique(golden: GoldenCase, suffix: string): boolean {
  const cut = golden.scalars['cut'] as Readonly<Record<string, { readonly unique?: boolean }>> | undefined
  return cut?.[suffix]?.unique ?? true
}

/** Checks lines of [tokens, ratio, kept]: how many of so many tokens every press keeps. */
async function keptCounts(golden: GoldenCase, presses: Presses): Promise<Outcome | null> {
  const rows = golden.scalars['rows'] as readonly (readonly [number, number, number])[]
  const tensors: TensorResult[] = []
  for (const [name, press] of presses) {
    if (!press.countsAsAny) continue
    const counts = rows.map(([tokens, ratio]) => {
      const compressor = ratio < 1 ? press.make(golden, 1 - ratio, presses) : null
      return compressor ? countOf(compressor, tokens) : 0
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
  return scorer?.bind(site).count(tokens, tokens) ?? pick?.bind(site).count(tokens, 0) ?? tokens
}
