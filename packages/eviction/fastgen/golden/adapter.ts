/** Cases made by AnswerDotAI/cold-compress: policies of a prompt, and what heads hold step by step after it. */

import type { KVCompressor } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  type GoldenCase,
  GoldenError,
  maskByCache,
  modelOf,
  type NdArray,
  numberOption,
  numbersOption,
  type Outcome,
  type Rows,
  rowsOf,
  sliceLikeNumpy,
  type TensorResult,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { slice } from '@tensorflow/tfjs-core'
import { attentionSums } from '../src/attention-sums'
import { fastgen } from '../src/fastgen'
import { marksOf, type Policy, policiesOf } from '../src/policies'
import { type AttentionSums, choosePolicy, keepMask, meanAttention, profiledWidths, recoveryOf } from '../src/profile'
import { runDecode } from './decode'

/** The policy that the authors take where none recovers enough. */
const CHEAPEST = 0

/** FastGen against cold-compress. */
export const adapter: CaseAdapter = { method: 'fastgen', run }

async function run(golden: GoldenCase): Promise<Outcome> {
  const rows = await rowsOf(golden)
  const setup = await setupOf(golden, rows)
  return { tensors: golden.options['decode_steps'] === undefined ? await profiles(setup) : await decode(setup) }
}

interface Setup {
  readonly golden: GoldenCase
  readonly rows: Rows
  readonly policies: readonly Policy[]
  readonly ids: Int32Array
  readonly special: readonly (readonly number[])[]
  readonly punctuation: readonly number[]
  readonly globalTokens: number
  readonly maxLength: number
}

async function setupOf(golden: GoldenCase, rows: Rows): Promise<Setup> {
  const listed = golden.options['policies'] as readonly Readonly<Record<string, unknown>>[] | undefined
  if (!listed) throw new GoldenError(`Case ${golden.name} names no policies.`)
  const tokens = rows.keys.shape[1] ?? 0
  return {
    golden,
    rows,
    policies: listed.map(policyOf),
    // Where a case gives no ids, token t has the id (7 t) mod 23, by the convention of the data.
    ids: golden.has('ids')
      ? Int32Array.from((await golden.input('ids')).data)
      : Int32Array.from({ length: tokens }, (_, t) => (7 * t) % 23),
    special: (golden.options['special_ids'] ?? []) as readonly (readonly number[])[],
    punctuation: numbersOption(golden, 'punctuation_ids_present', []),
    globalTokens: numberOption(golden, 'global_tokens'),
    maxLength: numberOption(golden, 'max_cache_length'),
  }
}

/** A policy as cold-compress names it: the parts it keeps, joined by underscores. */
function policyOf(listed: Readonly<Record<string, unknown>>): Policy {
  const name = String(listed['strategy'])
  const fraction = (part: string, option: string): number => (name.includes(part) ? Number(listed[option]) : 0)
  return {
    special: name.includes('special'),
    punctuation: name.includes('punc'),
    heavy: fraction('heavy_hitter', 'heavy_hitter_frac'),
    window: fraction('window', 'recent_window'),
    full: name === 'full',
  }
}

/** The attention sums of each KV head over the first `tokens` rows. */
function headSums({ rows, policies }: Setup, tokens: number): Promise<readonly AttentionSums[]> {
  const { kvHeads, queryHeads, attentionScale } = modelOf(rows)
  return withArena(async (arena) => {
    const [queries, keys] = [arena.own(toTensor(rows.queries)), arena.own(toTensor(rows.keys))]
    const group = queryHeads / kvHeads
    return Array.from({ length: kvHeads }, (_, head) => {
      const q = arena.own(slice(queries, [head * group, 0, 0], [group, tokens, -1]))
      const k = arena.own(slice(keys, [head, 0, 0], [1, tokens, -1]))
      return attentionSums(q, k, attentionScale, profiledWidths(policies, tokens))
    })
  })
}

async function profiles(setup: Setup): Promise<TensorResult[]> {
  const { golden, rows, policies, ids, globalTokens, maxLength } = setup
  const tokens = numberOption(golden, 'tokens', rows.keys.shape[1] ?? 0)
  const marks = marksOf(ids.subarray(0, tokens), setup.special, setup.punctuation)
  const sums = await headSums(setup, tokens)
  const means = sums.map(meanAttention)
  const recoveries = policies.map((policy) => sums.map((own) => recoveryOf(policy, own, marks, globalTokens)))
  const results: Record<string, NdArray> = {
    recovery: { shape: [policies.length, sums.length], data: Float32Array.from(recoveries.flat()) },
    cum: { shape: [sums.length, tokens], data: Float32Array.from(means.flatMap((own) => [...own])) },
    special: { shape: [tokens], data: Int32Array.from(marks.special) },
    punct: { shape: [tokens], data: Int32Array.from(marks.punctuation) },
  }
  for (const least of numbersOption(golden, 'min_recovery_frac')) {
    const chosen = sums.map((_, head) =>
      choosePolicy(
        recoveries.map((own) => own[head] ?? 0),
        least,
        CHEAPEST,
      ),
    )
    const masks = chosen.map((policy, head) =>
      keepMask(at(policies, policy), at(means, head), marks, globalTokens, maxLength),
    )
    const suffix = suffixOf(golden, least)
    results[`policy_${suffix}`] = { shape: [chosen.length], data: Int32Array.from(chosen) }
    results[`keep_${suffix}`] = { shape: [chosen.length, tokens], data: Int32Array.from(masks.flatMap((m) => [...m])) }
  }
  const tensors = await Promise.all(
    golden.expects.map(async (name) => {
      const result = results[name]
      if (!result) return wrong(name, 'no result for this name')
      return compareArrays(name, result, await golden.expected(name), golden.tolerance(name))
    }),
  )
  for (const least of numbersOption(golden, 'min_recovery_frac')) {
    const name = `keep_${suffixOf(golden, least)}`
    const compressor = presetOf(setup, least)
    // Where no policy recovers enough, the method takes everything and the authors take the cheapest policy.
    const reached = sums.every((_, head) => recoveries.some((own) => (own[head] ?? 0) >= least))
    if (!compressor || !reached || !golden.expects.includes(name)) continue
    const mask = await maskByCache(compressor, { ...firstRows(rows, tokens), tokenIds: ids.slice(0, tokens) })
    tensors.push(compareArrays(`${name} (cache)`, mask, await golden.expected(name), golden.tolerance(name)))
  }
  return tensors
}

/** Makes the method where the case's policies are one of its presets. */
function presetOf(setup: Setup, minRecovery: number): KVCompressor | null {
  const { policies, globalTokens, maxLength, special, punctuation } = setup
  const { window = 0, heavy = 0 } =
    policies.find((policy) => policy.special && policy.heavy > 0 && policy.window > 0) ?? {}
  const fits = (preset: 'fastgen' | 'hybrid') =>
    JSON.stringify(policiesOf(preset, window, heavy)) === JSON.stringify(policies)
  const common = { minRecovery, globalTokens, maxLength, specialIds: special, punctuationIds: punctuation }
  if (fits('hybrid')) return fastgen({ ...common, policies: 'hybrid' })
  return window > 0 && fits('fastgen') ? fastgen({ ...common, window, heavy }) : null
}

const firstRows = (rows: Rows, tokens: number): Rows => ({
  ...rows,
  queries: sliceLikeNumpy(rows.queries, `:, :${tokens}`),
  keys: sliceLikeNumpy(rows.keys, `:, :${tokens}`),
  values: sliceLikeNumpy(rows.values, `:, :${tokens}`),
})

/** The names that data may use for a recovery: `R90` for 0.9, and either neighbour for one that is no whole per cent. */
function suffixOf(golden: GoldenCase, least: number): string {
  const names = [Math.round(least * 100), Math.floor(least * 100), Math.ceil(least * 100)].map((n) => `R${n}`)
  return names.find((name) => golden.expects.includes(`policy_${name}`)) ?? names[0] ?? ''
}

function at<T>(list: readonly T[], index: number): T {
  const found = list[index]
  if (found === undefined) throw new GoldenError(`Entry ${index} of ${list.length} was asked for.`)
  return found
}

/** Runs a decode case: what each KV head holds after the prompt and after every step, and what the steps return. */
async function decode(setup: Setup): Promise<TensorResult[]> {
  const { golden, rows, policies, globalTokens, maxLength } = setup
  const [prompt, count] = [numberOption(golden, 'prompt_tokens'), numberOption(golden, 'decode_steps')]
  const inPrompt = marksOf(setup.ids.subarray(0, prompt), setup.special, setup.punctuation)
  const punctuation = marksOf(setup.ids, [], setup.punctuation).punctuation
  const expected = await golden.expected('positions')
  const heads = (await headSums(setup, prompt)).map((own, head) => {
    const mean = meanAttention(own)
    const recoveries = policies.map((policy) => recoveryOf(policy, own, inPrompt, globalTokens))
    const chosen = choosePolicy(recoveries, numberOption(golden, 'min_recovery_frac'), CHEAPEST)
    const policy = at(policies, chosen)
    const kept = keepMask(policy, mean, inPrompt, globalTokens, maxLength)
    return runDecode(
      {
        rows,
        head,
        prompt,
        count,
        policy,
        mean,
        kept,
        special: inPrompt.special,
        punctuation,
        globalTokens,
        maxLength,
      },
      positionsOf(expected, head),
    )
  })
  const width = expected.shape[2] ?? 0
  const filled = (held: readonly number[]) => [
    ...held,
    ...Array.from({ length: Math.max(0, width - held.length) }, () => -1),
  ]
  const perStep = Array.from({ length: count + 1 }, (_, step) => heads.map(({ positions }) => at(positions, step)))
  const results: Record<string, NdArray> = {
    positions: {
      shape: [count + 1, heads.length, width],
      data: Int32Array.from(perStep.flatMap((step) => step.flatMap(filled))),
    },
    counts: {
      shape: [count + 1, heads.length],
      data: Int32Array.from(perStep.flatMap((step) => step.map(({ length }) => length))),
    },
    outputs: {
      shape: [count, rows.queries.shape[0] ?? 0, rows.values.shape[2] ?? 0],
      data: Float32Array.from(
        Array.from({ length: count }, (_, step) => heads.flatMap((h) => at(h.outputs, step))).flat(),
      ),
    },
  }
  return Promise.all(
    golden.expects.map(async (name) => {
      const result = results[name]
      if (!result) return wrong(name, 'no result for this name')
      return compareArrays(name, result, await golden.expected(name), golden.tolerance(name))
    }),
  )
}

/** The positions `[steps + 1][held]` of one head, without the -1 that fills lines up. */
function positionsOf({ shape, data }: NdArray, head: number): readonly (readonly number[])[] {
  const [steps = 0, heads = 0, width = 0] = shape
  return Array.from({ length: steps }, (_, step) =>
    [...data.subarray((step * heads + head) * width, (step * heads + head + 1) * width)].filter((p) => p >= 0),
  )
}
