/**
 * FastGen: heads differ in what they attend to, so each KV head gets the cheapest policy that keeps enough of its attention
 * over the prompt: special tokens, and punctuation, and the most attended tokens, and the newest, or everything. After the
 * prompt a head goes on by its policy: a new token is added, takes the place of another one, or is not stored.
 *
 *   policy = first P with  mean over queries of Σ_i∈P A[query, i]  ≥  minRecovery
 *
 * S. Ge, Y. Zhang, L. Liu, M. Zhang, J. Han, J. Gao, "Model Tells You What to Discard: Adaptive KV Cache Compression for LLMs"
 * (arXiv 2310.01801), sections 3 and 4. The paper has no code; profile and upkeep follow the one its page names, AnswerDotAI/cold-compress:
 * recovered mass R instead of the paper's distance (T = 2R - 1), the attention of a GQA group averaged. What differs from it: `full` is taken
 * where no policy recovers enough (there the cheapest one was); a token's mean attention is a running sum and count, in which
 * every query of the prompt counts as much as one after it; a step attends to its own token before the token is dropped.
 */
import {
  defineMethod,
  dropping,
  type Json,
  KvloomError,
  type Observed,
  OptionError,
  type OptionsOf,
  type PickContext,
  type Picker,
  perKvHead,
  type Scorer,
  type Site,
  type Stage,
} from '@kvloom/core'
import { add, cast, cumsum, div, equal, type Tensor, tensor2d } from '@tensorflow/tfjs-core'
import { attentionSums } from './attention-sums'
import { fastgenOptions } from './options'
import { marksOf, type Policy, policiesOf } from './policies'
import { choosePolicy, keepMask, meanAttention, profiledWidths, recoveryOf } from './profile'
import { type HeldRows, upkeep } from './upkeep'

type Options = OptionsOf<typeof fastgenOptions>

const OBSERVED = {
  queries: { of: 'queries', last: Number.POSITIVE_INFINITY },
  keys: { of: 'keys' },
  positions: { of: 'positions' },
  tokenIds: { of: 'tokenIds' },
} as const

/** A policy per KV head, chosen at the end of the prompt; heads keep different numbers of tokens. */
export const fastgen = defineMethod(
  {
    name: 'fastgen',
    title: 'FastGen',
    summary: 'Gives each head the cheapest policy that keeps enough of its attention over the prompt.',
    paper: {
      title: 'Model Tells You What to Discard: Adaptive KV Cache Compression for LLMs',
      link: 'https://arxiv.org/abs/2310.01801',
    },
    chunkInvariant: true,
  },
  fastgenOptions,
  (options) => {
    for (const name of ['window', 'heavy'] as const)
      if (options.policies === 'hybrid' && options[name] !== fastgenOptions[name].default)
        throw new OptionError(
          'fastgen',
          name,
          options[name],
          "left out beside policies: 'hybrid'",
          'Its policies have fractions of their own.',
        )
    const policies = policiesOf(options.policies, options.window, options.heavy)
    const common = { id: 'fastgen', options: options as unknown as Json, when: 'step' } as const
    const score: Stage<'score'> = {
      ...common,
      kind: 'score',
      accepts: (space) => space,
      bind: (site) => meanAttentionScorer(site),
    }
    const pick: Stage<'pick'> = {
      ...common,
      kind: 'pick',
      facts: { by: 'scores', scatters: true, ragged: true },
      accepts: (space) => dropping(space, 'head', 'step'),
      bind: (site): Picker => ({
        needs: OBSERVED,
        positions: 'original',
        protect: { first: options.globalTokens },
        ragged: true,
        count: (tokens) => tokens,
        keep(tokens, _count, scores, seen, now) {
          const all = [{ start: 0, end: tokens }]
          const known = now.memory as HeadMemory | null
          if (now.phase === 'prompt' || (!known && now.phase === 'decode')) return all
          const observed = seen as Observed<typeof OBSERVED>
          return known
            ? followPolicy(known, policies, observed, scores, options, now)
            : profileHead(policies, observed, options, site, now)
        },
      }),
    }
    return { stages: [score, pick] }
  },
)

/** What a head remembers. It is a type and not an interface, so that it is assignable to `Json`. */
type HeadMemory = {
  readonly policy: number
  /** The positions of the prompt's special tokens. */
  readonly special: readonly number[]
  /** How many punctuation tokens there were so far, stored or not. */
  readonly punctuation: number
  readonly promptLength: number
  readonly tokensSeen: number
}

/**
 * Scores a token by its mean attention: over the query heads of a KV head, and over the queries that could see the token. The columns `sum`
 * and `count` `[kvHeads, tokens]` keep the mean running.
 */
const meanAttentionScorer = ({ model }: Site): Scorer => ({
  needs: { attention: { of: 'attention', queries: 'all', reduce: 'sum' } },
  columns: ['sum', 'count'],
  count: (tokens) => tokens,
  score({ attention }, columns) {
    if (!attention || !columns['sum'] || !columns['count'])
      throw new KvloomError('FASTGEN_OBSERVED', 'fastgen: its scorer sees attention and the columns sum and count.')
    const kvHeads = ((attention.shape[0] ?? 0) * model.kvHeads) / model.queryHeads
    // A count of 0 marks a new row. A row is seen by its own query and by those of the new rows behind it.
    const queries = cumsum(cast(equal(columns['count'], 0), 'float32'), 1, false, true)
    const [sum, count] = [add(columns['sum'], perKvHead(attention, kvHeads)), add(columns['count'], queries)]
    return { scores: div(sum, count), columns: { sum, count } }
  },
})

/** Chooses the policy of a head and keeps what it keeps of the prompt. */
function profileHead(
  policies: readonly Policy[],
  { queries, keys, tokenIds }: Observed<typeof OBSERVED>,
  { minRecovery, globalTokens, specialIds, punctuationIds, maxLength }: Options,
  { model }: Site,
  now: PickContext,
): Tensor {
  const marks = marksOf(tokenIds.dataSync<'int32'>(), specialIds, punctuationIds)
  const tokens = marks.special.length
  const sums = attentionSums(queries, keys, model.attentionScale, profiledWidths(policies, tokens))
  const chosen = choosePolicy(
    policies.map((policy) => recoveryOf(policy, sums, marks, globalTokens)),
    minRecovery,
  )
  now.memory = {
    policy: chosen,
    special: [...marks.special.keys()].filter((i) => marks.special[i]),
    punctuation: marks.punctuation.reduce((sum, mark) => sum + mark, 0),
    promptLength: tokens,
    tokensSeen: now.tokensSeen,
  } satisfies HeadMemory
  const mask = keepMask(
    policyAt(policies, chosen),
    meanAttention(sums),
    marks,
    globalTokens,
    Math.max(tokens, maxLength ?? 0),
  )
  return tensor2d(Float32Array.from(mask), [1, tokens])
}

/** Applies the policy of a head to one new token after the other. */
function followPolicy(
  memory: HeadMemory,
  policies: readonly Policy[],
  seen: Observed<typeof OBSERVED>,
  scores: Tensor | null,
  { globalTokens, punctuationIds, maxLength }: Options,
  now: PickContext,
): Tensor {
  const positions = seen.positions.dataSync<'int32'>()
  const means = scores?.dataSync<'float32'>() ?? new Float32Array(positions.length)
  const punctuation = marksOf(seen.tokenIds.dataSync<'int32'>(), [], punctuationIds).punctuation
  const specials = new Set(memory.special)
  // A row that was dropped before and is still held in its block has no score.
  const held: number[] = []
  const fresh: number[] = []
  for (let row = 0; row < positions.length; row++)
    if (means[row] !== Number.NEGATIVE_INFINITY) ((positions[row] ?? 0) >= memory.tokensSeen ? fresh : held).push(row)
  const heldRows = (): HeldRows => {
    const length = held.length
    const of = {
      positions: new Int32Array(length),
      special: new Uint8Array(length),
      punctuation: new Uint8Array(length),
      mean: new Float32Array(length),
    }
    for (let i = 0; i < length; i++) {
      const row = held[i] ?? 0
      const position = positions[row] ?? 0
      of.positions[i] = position
      of.special[i] = specials.has(position) ? 1 : 0
      of.punctuation[i] = punctuation[row] ?? 0
      of.mean[i] = means[row] ?? 0
    }
    return of
  }
  let marked = memory.punctuation
  for (const row of fresh) {
    const position = positions[row] ?? 0
    const decision = upkeep(
      policyAt(policies, memory.policy),
      heldRows(),
      { position, punctuation: punctuation[row] === 1 },
      {
        globalTokens,
        special: memory.special.length,
        punctuation: marked,
        windowLength: maxLength ?? memory.promptLength,
        heavyLength: maxLength ?? position + 1,
      },
    )
    if (typeof decision === 'number') held.splice(decision, 1)
    if (decision !== 'skip') held.push(row)
    marked += punctuation[row] ?? 0
  }
  now.memory = { ...memory, punctuation: marked, tokensSeen: now.tokensSeen } satisfies HeadMemory
  const mask = new Float32Array(positions.length)
  for (const row of held) mask[row] = 1
  return tensor2d(mask, [1, mask.length])
}

function policyAt(policies: readonly Policy[], index: number): Policy {
  const policy = policies[index]
  if (!policy)
    throw new KvloomError(
      'FASTGEN_POLICY',
      `fastgen: policy ${index} of ${policies.length}; the cache was made by another version.`,
    )
  return policy
}
