/** Cases made by AnswerDotAI/cold-compress: policies of a prompt, and what heads hold step by step after it. */
import type { KVCompressor } from '@kvloom/core'
import { slice, type Tensor } from '@tensorflow/tfjs-core'
import { withArena } from '../../arena'
import { type NdArray, sliceLikeNumpy, toTensor } from '../array'
import { compareArrays, type TensorResult, wrong } from '../compare'
import { GoldenError } from '../errors'
import type { GoldenCase } from '../schema'
import { maskByCache, modelOf, type Rows, rowsOf } from './eviction'
import { runDecode } from './fastgen-decode'
import { numberOption, numbersOption } from './options'
import type { Adapter, CreateMethod } from './types'

export interface Policy {
  readonly special: boolean
  readonly punctuation: boolean
  readonly heavy: number
  readonly window: number
  readonly full: boolean
}
interface Marks {
  readonly special: Uint8Array
  readonly punctuation: Uint8Array
}
interface Sums {
  readonly all: Float64Array
  readonly within: ReadonlyMap<number, Float64Array>
}

export type Upkeep = (
  policy: Policy,
  held: {
    readonly positions: ArrayLike<number>
    readonly special: ArrayLike<number>
    readonly punctuation: ArrayLike<number>
    readonly mean: ArrayLike<number>
  },
  incoming: { readonly position: number; readonly punctuation: boolean },
  allowed: {
    readonly globalTokens: number
    readonly special: number
    readonly punctuation: number
    readonly windowLength: number
    readonly heavyLength: number
  },
) => 'append' | 'skip' | number

/** The steps that FastGen is made of. */
export interface FastgenSteps {
  readonly fastgen: CreateMethod
  readonly policiesOf: (preset: 'fastgen' | 'hybrid', window: number, heavy: number) => readonly Policy[]
  readonly marksOf: (
    tokens: Int32Array,
    special: readonly (readonly number[])[],
    punctuation: readonly number[],
  ) => Marks
  readonly profiledWidths: (policies: readonly Policy[], tokens: number) => readonly number[]
  readonly attentionSums: (queries: Tensor, keys: Tensor, scale: number, widths: readonly number[]) => Sums
  readonly meanAttention: (sums: Sums) => Float64Array
  readonly recoveryOf: (policy: Policy, sums: Sums, marks: Marks, globalTokens: number) => number
  readonly choosePolicy: (recoveries: readonly number[], minRecovery: number, otherwise?: number) => number
  readonly keepMask: (
    policy: Policy,
    mean: Float64Array,
    marks: Marks,
    globalTokens: number,
    length: number,
  ) => Uint8Array
  readonly upkeep: Upkeep
}
/** What the authors take where no policy recovers enough. */
const CHEAPEST = 0

export const fastgen: Adapter = async (golden, { fastgenSteps: steps }) => {
  if (!steps) return null
  const rows = await rowsOf(golden)
  const setup = await setupOf(golden, rows, steps)
  return { tensors: golden.options['decode_steps'] === undefined ? await profiles(setup) : await decode(setup) }
}

interface Setup {
  readonly golden: GoldenCase
  readonly rows: Rows
  readonly steps: FastgenSteps
  readonly policies: readonly Policy[]
  readonly ids: Int32Array
  readonly special: readonly (readonly number[])[]
  readonly punctuation: readonly number[]
  readonly globalTokens: number
  readonly maxLength: number
}

async function setupOf(golden: GoldenCase, rows: Rows, steps: FastgenSteps): Promise<Setup> {
  const listed = golden.options['policies'] as readonly Readonly<Record<string, unknown>>[] | undefined
  if (!listed) throw new GoldenError(`Case ${golden.name} names no policies.`)
  const tokens = rows.keys.shape[1] ?? 0
  return {
    golden,
    rows,
    steps,
    policies: listed.map(policyOf),
    // Without ids the data's convention: (7 t) mod 23.
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

/** Attention sums of each KV head over the first `tokens` rows. */
function headSums({ rows, steps, policies }: Setup, tokens: number): Promise<readonly Sums[]> {
  const { kvHeads, queryHeads, attentionScale } = modelOf(rows)
  return withArena(async (arena) => {
    const [queries, keys] = [arena.own(toTensor(rows.queries)), arena.own(toTensor(rows.keys))]
    const group = queryHeads / kvHeads
    return Array.from({ length: kvHeads }, (_, head) => {
      const q = arena.own(slice(queries, [head * group, 0, 0], [group, tokens, -1]))
      const k = arena.own(slice(keys, [head, 0, 0], [1, tokens, -1]))
      return steps.attentionSums(q, k, attentionScale, steps.profiledWidths(policies, tokens))
    })
  })
}

async function profiles(setup: Setup): Promise<TensorResult[]> {
  const { golden, rows, steps, policies, ids, globalTokens, maxLength } = setup
  const tokens = numberOption(golden, 'tokens', rows.keys.shape[1] ?? 0)
  const marks = steps.marksOf(ids.subarray(0, tokens), setup.special, setup.punctuation)
  const sums = await headSums(setup, tokens)
  const means = sums.map(steps.meanAttention)
  const recoveries = policies.map((policy) => sums.map((own) => steps.recoveryOf(policy, own, marks, globalTokens)))
  const results: Record<string, NdArray> = {
    recovery: { shape: [policies.length, sums.length], data: Float32Array.from(recoveries.flat()) },
    cum: { shape: [sums.length, tokens], data: Float32Array.from(means.flatMap((own) => [...own])) },
    special: { shape: [tokens], data: Int32Array.from(marks.special) },
    punct: { shape: [tokens], data: Int32Array.from(marks.punctuation) },
  }
  for (const least of numbersOption(golden, 'min_recovery_frac')) {
    const chosen = sums.map((_, head) =>
      steps.choosePolicy(
        recoveries.map((own) => own[head] ?? 0),
        least,
        CHEAPEST,
      ),
    )
    const masks = chosen.map((policy, head) =>
      steps.keepMask(at(policies, policy), at(means, head), marks, globalTokens, maxLength),
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
    // Where no policy recovers enough the method takes everything, the authors the cheapest.
    const reached = sums.every((_, head) => recoveries.some((own) => (own[head] ?? 0) >= least))
    if (!compressor || !reached || !golden.expects.includes(name)) continue
    const mask = await maskByCache(compressor, { ...firstRows(rows, tokens), tokenIds: ids.slice(0, tokens) })
    tensors.push(compareArrays(`${name} (cache)`, mask, await golden.expected(name), golden.tolerance(name)))
  }
  return tensors
}

/** The method itself, where the case's policies are one of its presets. */
function presetOf(setup: Setup, minRecovery: number): KVCompressor | null {
  const { steps, policies, globalTokens, maxLength, special, punctuation } = setup
  const { window = 0, heavy = 0 } =
    policies.find((policy) => policy.special && policy.heavy > 0 && policy.window > 0) ?? {}
  const fits = (preset: 'fastgen' | 'hybrid') =>
    JSON.stringify(steps.policiesOf(preset, window, heavy)) === JSON.stringify(policies)
  const common = { minRecovery, globalTokens, maxLength, specialIds: special, punctuationIds: punctuation }
  if (fits('hybrid')) return steps.fastgen({ ...common, policies: 'hybrid' })
  return window > 0 && fits('fastgen') ? steps.fastgen({ ...common, window, heavy }) : null
}

const firstRows = (rows: Rows, tokens: number): Rows => ({
  ...rows,
  queries: sliceLikeNumpy(rows.queries, `:, :${tokens}`),
  keys: sliceLikeNumpy(rows.keys, `:, :${tokens}`),
  values: sliceLikeNumpy(rows.values, `:, :${tokens}`),
})

/** `R90` of 0.9; a recovery that is no whole per cent is named by either neighbour. */
function suffixOf(golden: GoldenCase, least: number): string {
  const names = [Math.round(least * 100), Math.floor(least * 100), Math.ceil(least * 100)].map((n) => `R${n}`)
  return names.find((name) => golden.expects.includes(`policy_${name}`)) ?? names[0] ?? ''
}

function at<T>(list: readonly T[], index: number): T {
  const found = list[index]
  if (found === undefined) throw new GoldenError(`Entry ${index} of ${list.length} was asked for.`)
  return found
}

/** Decode cases: what each KV head holds after the prompt and after every step, and what the steps return. */
async function decode(setup: Setup): Promise<TensorResult[]> {
  const { golden, rows, steps, policies, globalTokens, maxLength } = setup
  const [prompt, count] = [numberOption(golden, 'prompt_tokens'), numberOption(golden, 'decode_steps')]
  const inPrompt = steps.marksOf(setup.ids.subarray(0, prompt), setup.special, setup.punctuation)
  const punctuation = steps.marksOf(setup.ids, [], setup.punctuation).punctuation
  const expected = await golden.expected('positions')
  const heads = (await headSums(setup, prompt)).map((own, head) => {
    const mean = steps.meanAttention(own)
    const recoveries = policies.map((policy) => steps.recoveryOf(policy, own, inPrompt, globalTokens))
    const chosen = steps.choosePolicy(recoveries, numberOption(golden, 'min_recovery_frac'), CHEAPEST)
    const policy = at(policies, chosen)
    const kept = steps.keepMask(policy, mean, inPrompt, globalTokens, maxLength)
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
      steps.upkeep,
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

/** Positions `[steps + 1][held]` of one head; -1 fills. */
function positionsOf({ shape, data }: NdArray, head: number): readonly (readonly number[])[] {
  const [steps = 0, heads = 0, width = 0] = shape
  return Array.from({ length: steps }, (_, step) =>
    [...data.subarray((step * heads + head) * width, (step * heads + head + 1) * width)].filter((p) => p >= 0),
  )
}
