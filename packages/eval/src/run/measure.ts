/** One pass of one compressor over the steps of a plan: quality against the uncompressed run, and bytes. Times are taken apart (`timing.ts`). */
import { type Artifact, type KVCompressor, type ModelShape, openCache, ready, takeTurn } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import { InterruptedError, NonFiniteLogitsError } from '../errors'
import { AttentionError, AttentionReference } from '../metrics/attention-error'
import { WatchedCache } from '../metrics/attention-watch'
import { type Footprint, footprintOf } from '../metrics/footprint'
import { type Held, heldBy } from '../metrics/held'
import { klDivergence, largestIndex, logSumExp, negativeLogLikelihood } from '../metrics/logits'
import { mean, quantile } from '../metrics/statistics'
import type { LogitStore } from './logit-store'
import { type Plan, runLimited, type Step } from './plan'
import type { ScoringModel } from './scoring-model'

/** What the uncompressed run leaves for the others. */
export interface Reference {
  readonly logits: LogitStore
  /** logSumExp and arg max of every row, by position. */
  readonly normalizers: Map<number, number>
  readonly best: Map<number, number>
  readonly attention: AttentionReference
  /** Positions at which attention outputs are compared. */
  readonly sampled: readonly number[]
}

export interface MeasureOptions {
  readonly model: ScoringModel
  readonly compressor: KVCompressor
  readonly artifacts?: readonly Artifact[]
  /** The uncompressed model's shape, over whose values bits are counted. Default: the model's own. */
  readonly original?: ModelShape
  /** Token ids, at least the plan's. */
  readonly ids: Int32Array
  readonly plan: Plan
  readonly reference: Reference
  /** True: this is the uncompressed run, fill the reference. */
  readonly fill?: boolean
  /** Called after each step with the tokens done. */
  readonly onTokens?: (tokens: number) => void
  readonly signal?: AbortSignal
}

export interface Quality {
  /** exp of the mean negative log-likelihood over all targets. */
  readonly perplexity: number
  /** The same without the first target, which protocol E predicts from the exact prefill; null when there is only one. */
  readonly perplexityWithoutFirst: number | null
  /** KL(uncompressed || this), nats, over the plan's rows. */
  readonly meanKld: number
  readonly kld99: number
  /** Share of rows with the same most likely token as the uncompressed run. */
  readonly top1: number
  /** Relative attention-output error per layer. */
  readonly attentionError: readonly number[]
}

export interface BytesAt {
  readonly tokens: number
  readonly total: number
}

export interface Measures {
  readonly quality: Quality
  /** Protocol E: after the eviction at the end of the prompt; P and W: at the end of the text. The headline. */
  readonly footprint: Footprint
  readonly footprintAtEnd: Footprint
  readonly bytesOverTokens: readonly BytesAt[]
  /** What it kept and sealed, where `footprint` is taken. */
  readonly held: Held
  /** Longest step really fed; less than asked where the compressor takes no more at once. */
  readonly longestStep: number
}

/** Runs the plan. @throws InterruptedError, NonFiniteLogitsError, and what the compressor, cache and model throw. */
export async function measure(options: MeasureOptions): Promise<Measures> {
  const { model, compressor, artifacts = [], plan, reference, fill = false } = options
  const cache = openCache(model.shape, ready(compressor, artifacts))
  try {
    const errors = new AttentionError(reference.attention, model.shape.layers)
    const watched = new WatchedCache(cache, reference.sampled, (layer, position, output) => {
      if (fill) reference.attention.set(layer, position, output)
      else errors.add(layer, position, output)
    })
    const scores = new Scores(options)
    const bytes: BytesAt[] = [{ tokens: 0, total: cache.bytes().total }]
    let headline: { footprint: Footprint; held: Held } | null = null as { footprint: Footprint; held: Held } | null
    const look = () => ({ footprint: footprintOf(cache, options.original), held: heldBy(cache) })
    let longestStep = 0
    await runLimited(
      plan.steps,
      (tokens) => cache.canTake(tokens),
      async (step) => {
        await runStep(options, watched, step, scores)
        longestStep = Math.max(longestStep, step.end - step.start)
        bytes.push({ tokens: step.end, total: cache.bytes().total })
        if (plan.protocol === 'E' && step.phase === 'promptEnd') headline = look()
        options.onTokens?.(step.end)
      },
    )
    const end = look()
    return {
      quality: scores.summarize(errors.perLayer()),
      ...(headline ?? end),
      footprintAtEnd: end.footprint,
      bytesOverTokens: thin(bytes),
      longestStep,
    }
  } finally {
    cache.dispose()
  }
}

async function runStep(options: MeasureOptions, watched: WatchedCache, step: Step, scores: Scores): Promise<void> {
  await takeTurn()
  if (options.signal?.aborted) throw new InterruptedError()
  const ids = options.ids.subarray(step.start, step.end)
  const wanted = scores.wanted(step)
  const visit = async (from: number, logits: Tensor): Promise<void> => {
    const width = logits.shape[1] ?? 0
    const values = (await logits.data()) as Float32Array
    const first = step.start + (wanted === 'last' ? ids.length - 1 : from)
    for (let row = 0; row * width < values.length; row++)
      await scores.add(first + row, values.subarray(row * width, (row + 1) * width))
  }
  const logits = await options.model.forward(watched, ids, step.phase, {
    logits: wanted === 'visit' ? { visit } : wanted,
  })
  if (!logits) return
  await visit(0, logits)
  logits.dispose()
}

/** Collects the scores of the rows a plan asks for. */
class Scores {
  private readonly likelihoods: number[] = []
  private readonly divergences: number[] = []
  private agreed = 0

  constructor(private readonly options: MeasureOptions) {}

  private get from(): number {
    const { targets, rows } = this.options.plan
    return Math.min(targets.from - 1, rows.from)
  }
  private get to(): number {
    const { targets, rows } = this.options.plan
    return Math.max(targets.to - 1, rows.to)
  }

  /** Which logits of a step are needed: none, only the last row, or all. */
  wanted(step: Step): 'none' | 'last' | 'visit' {
    if (step.end <= this.from || step.start >= this.to) return 'none'
    return step.end - 1 === this.from ? 'last' : 'visit'
  }

  /** @param position of the token whose row this is; it predicts the next one. */
  async add(position: number, row: Float32Array): Promise<void> {
    const { plan, ids, reference, fill } = this.options
    if (position < this.from || position >= this.to) return
    const normalizer = logSumExp(row)
    if (!Number.isFinite(normalizer)) throw new NonFiniteLogitsError(position)
    const target = position + 1
    if (target >= plan.targets.from && target < plan.targets.to)
      this.likelihoods.push(negativeLogLikelihood(row, normalizer, ids[target] as number))
    if (position < plan.rows.from || position >= plan.rows.to) return
    const best = largestIndex(row)
    if (fill) {
      await reference.logits.write(position, row)
      reference.normalizers.set(position, normalizer)
      reference.best.set(position, best)
      this.divergences.push(0)
      this.agreed++
      return
    }
    const wanted = await reference.logits.read(position)
    const wantedNormalizer = reference.normalizers.get(position) ?? Number.NaN
    this.divergences.push(klDivergence(wanted, wantedNormalizer, row, normalizer))
    if (reference.best.get(position) === best) this.agreed++
  }

  summarize(attentionError: readonly number[]): Quality {
    const later = this.likelihoods.slice(1)
    return {
      perplexity: Math.exp(mean(this.likelihoods)),
      perplexityWithoutFirst: later.length > 0 ? Math.exp(mean(later)) : null,
      meanKld: mean(this.divergences),
      kld99: quantile(this.divergences, 0.99),
      top1: this.agreed / this.divergences.length,
      attentionError,
    }
  }
}

/** Points of a series that a plot can show. */
const MOST_POINTS = 200

function thin(series: readonly BytesAt[]): readonly BytesAt[] {
  if (series.length <= MOST_POINTS) return series
  const every = (series.length - 1) / (MOST_POINTS - 1)
  return Array.from({ length: MOST_POINTS }, (_, i) => series[Math.round(i * every)] as BytesAt)
}

/** An empty reference over a store. */
export const emptyReference = (logits: LogitStore, sampled: readonly number[]): Reference => ({
  logits,
  normalizers: new Map(),
  best: new Map(),
  attention: new AttentionReference(),
  sampled,
})
