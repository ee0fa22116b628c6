/** Cases that kvpress made of KVzip: scores of one layer from what a pass reads, and what one budget over all layers leaves. */
import { type AnyStage, defineScorer, type KVCompressor, type ReplayTexts } from '@kvloom/core'
import {
  type CaseAdapter,
  compareMask,
  compareNamed,
  feed,
  type GoldenCase,
  heldByHead,
  modelOf,
  type NdArray,
  numberOption,
  numbersOption,
  type Outcome,
  openExact,
  type Rows,
  type TensorResult,
  wrong,
} from '@kvloom/golden'
import { squeeze, type Tensor } from '@tensorflow/tfjs-core'
import { kvzip } from '../src/kvzip'

/** KVzip against kvpress. */
export const adapter: CaseAdapter = {
  method: 'kvzip',
  run: (golden) =>
    golden.options['plus'] === true
      ? Promise.resolve(null)
      : golden.has('all_scores')
        ? shareOverModel(golden)
        : scoreLayer(golden),
}

/** Reads a context and a pass over it into a cache of one layer, and compares the scores. */
async function scoreLayer(golden: GoldenCase): Promise<Outcome> {
  const sinks = numberOption(golden, 'n_sink')
  const prefix = numberOption(golden, 'prefix_tokens')
  const keys = await golden.input('k')
  const [replayQueries, replayKeys] = [await golden.input('q_replay'), await golden.input('k_replay')]
  const [kvHeads = 0, tokens = 0, dim = 0] = keys.shape
  const [queryHeads = 0, read = 0] = replayQueries.shape
  const none = { shape: [queryHeads, tokens, dim], data: new Float32Array(queryHeads * tokens * dim) }
  const context: Rows = { queries: none, keys, values: keys }
  const scores = new Float32Array(kvHeads * tokens)
  let heads = 0
  const compressor = watched(kvzip({ sinks, prefix }), (own) => {
    scores.set(own.dataSync<'float32'>(), tokens * heads)
    heads += own.shape[0] ?? 0
  })
  const cache = openExact(compressor, modelOf(context))
  try {
    await feed(cache, context, 0, tokens, 'promptEnd')
    const { replay } = cache
    const [pass, more] = replay?.passes(textsOf(read - (tokens - prefix))) ?? []
    if (!replay || !pass || more) return { tensors: [wrong('scores', 'there is not one pass')] }
    if (pass.tokens.length !== read || pass.from !== prefix || pass.to !== tokens)
      return { tensors: [wrong('scores', `a pass of ${pass.tokens.length} tokens over ${pass.from} to ${pass.to}`)] }
    const copy = replay.open(pass)
    await feed(copy, { queries: replayQueries, keys: replayKeys, values: replayKeys }, 0, read, 'prompt')
    copy.dispose()
    await replay.finish()
  } finally {
    cache.dispose()
  }
  // The press gives every sink the score 1; here a sink stays because it is promised.
  for (let head = 0; head < kvHeads; head++) scores.fill(1, head * tokens, head * tokens + Math.min(sinks, tokens))
  return { tensors: await compareNamed(golden, { scores: { shape: [kvHeads, tokens], data: scores } }) }
}

/** Texts of a model, so that instruction and turn of the only pass have `length` tokens together. */
const textsOf = (length: number): ReplayTexts => ({
  encode: (text) => new Int32Array(text === TURN ? 1 : length - 1),
  beforeAnswer: () => TURN,
})
const TURN = 'turn'

/** The compressor, with a look at the scores that each lane gets. */
const watched = (compressor: KVCompressor, look: (scores: Tensor) => void): KVCompressor => ({
  ...compressor,
  stages: compressor.stages.map((stage): AnyStage => {
    if (stage.kind !== 'score') return stage
    return {
      ...stage,
      bind(site, artifact) {
        const scorer = stage.bind(site, artifact)
        return {
          ...scorer,
          score(seen, columns, now) {
            const out = scorer.score(seen, columns, now)
            look('scores' in out ? out.scores : out)
            return out
          },
        }
      },
    }
  }),
})

/** Gives a cache of all layers the scores as values, and compares what it holds once KVzip has shared its budget out by them. */
async function shareOverModel(golden: GoldenCase): Promise<Outcome> {
  const scores = await golden.input('all_scores')
  const [layers = 0, kvHeads = 0, tokens = 0] = scores.shape
  const sinks = numberOption(golden, 'n_sink')
  const size = kvHeads * tokens
  const rows = Array.from({ length: layers }, (_, layer): Rows => {
    const own: NdArray = { shape: [kvHeads, tokens, 1], data: scores.data.slice(layer * size, (layer + 1) * size) }
    return { queries: own, keys: own, values: own }
  })
  const [first] = rows
  if (!first) return { tensors: [wrong('all_scores', 'there is no layer')] }
  const tensors: TensorResult[] = []
  for (const ratio of numbersOption(golden, 'compression_ratios')) {
    const name = `r${Math.round(ratio * 100)}`
    const given = byValues({ keep: 1 - ratio, sinks })
    const cache = openExact(given, modelOf(first, layers))
    try {
      await feed(cache, rows, 0, tokens, 'promptEnd')
      const mask = new Int32Array(layers * size)
      for (let layer = 0; layer < layers; layer++)
        for (const [head, held] of (await heldByHead(cache, layer)).entries())
          for (const position of held) mask[layer * size + head * tokens + position] = 1
      const kept = { shape: scores.shape, data: mask }
      tensors.push(compareMask(`mask_${name}`, kept, await golden.expected(`mask_${name}`), scores))
    } finally {
      cache.dispose()
    }
  }
  return { tensors }
}

/** KVzip with the values as scores, so that nothing has to be read again. */
function byValues(options: Parameters<typeof kvzip>[0]): KVCompressor {
  const given = kvzip(options)
  const { stages } = defineScorer({
    name: 'values',
    needs: { values: { of: 'values' } },
    score: ({ values }) => squeeze(values, [2]),
  })({ keep: options?.keep ?? 1 })
  return { ...given, stages: [...stages, ...given.stages.filter(({ kind }) => kind !== 'score')] }
}
