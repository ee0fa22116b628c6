/** One run of training: its steps, measurements and checkpoints. */
import { type Training, takeTurn } from '@kvloom/core'
import type { Model, TrainableModel } from '@kvloom/engine'
import { adamStep, freshMoments, type Moments } from './adam'
import { type Progressed, readCheckpoint, writeCheckpoint } from './checkpoint'
import { TrainingError } from './errors'
import { fingerprintOf, textFingerprint } from './fingerprint'
import type { TrainOptions } from './options'
import type { TrainingRecord } from './record'
import { isLayerLoss, learningRateAt, type PlannedPhase, planPhases, SequenceStream } from './schedule'
import { type StepResult, Steps } from './steps'

/** One run, from its beginning or its checkpoint to its end. */
export class Run {
  private readonly phases: readonly PlannedPhase[]
  private readonly steps: Steps
  private readonly stepTokens: number
  private progress: Progressed = {
    phase: 0,
    step: 0,
    dense: null,
    untrained: null,
    curve: [],
    perplexities: [],
    seconds: { training: 0, measuring: 0 },
  }
  private moments: Map<string, Moments>
  private settings = ''
  private lastWrite = performance.now()
  private readonly started = performance.now()
  private startTokens = 0

  constructor(
    private readonly options: TrainOptions,
    training: Training,
    private readonly changed: Model,
    private readonly original: TrainableModel,
    private readonly student: TrainableModel,
  ) {
    const { sequences, tokens = 200_000, batch = 1, seed = 0, learningRate = 1, model, signal } = options
    const length = sequences[0]?.length ?? 0
    this.stepTokens = batch * length
    this.phases = planPhases(training.phases, { tokens, batch, length }).map((phase) => ({
      ...phase,
      learningRate: phase.learningRate * learningRate,
    }))
    this.moments = freshMoments(student.values)
    this.steps = new Steps({
      original,
      student,
      sequences,
      stream: new SequenceStream(sequences.length, seed),
      batch,
      seed,
      layers: model.shape.layers,
      hiddenSize: model.config.hiddenSize,
      breathe: () => signal?.throwIfAborted(),
    })
  }

  /** Takes up the checkpoint, if there is one to take up. */
  async begin(): Promise<void> {
    const { sequences, heldOut, batch = 1, seed = 0, checkpoint } = this.options
    this.settings = JSON.stringify({
      model: this.changed.shape.fingerprint,
      phases: this.phases,
      batch,
      seed,
      text: await textFingerprint(sequences),
      heldOut: await textFingerprint(heldOut),
    })
    if (!checkpoint?.resume) return
    const { progress, weights, moments } = await readCheckpoint(
      checkpoint.file,
      this.settings,
      this.student.values.keys(),
    )
    this.student.set(weights)
    this.moments = new Map(moments)
    this.progress = progress
    this.startTokens = this.tokens
  }

  /** Steps and measurements, until all are done. */
  async go(): Promise<void> {
    const { signal } = this.options
    try {
      for (;;) {
        await takeTurn()
        signal?.throwIfAborted()
        const asIs = this.options.checkpoint?.asIs === true
        await this.measureWhenDue(asIs)
        if (asIs) return
        const phase = this.phases[this.progress.phase]
        if (!phase) break
        await this.step(phase)
        await this.keepWhenDue()
      }
    } catch (error) {
      if (!signal?.aborted) throw error
      await this.keep()
      throw new TrainingError(
        'INTERRUPTED',
        `a run that was interrupted at ${this.tokens} of ${this.allTokens} tokens`,
        'a run to its end',
        this.options.checkpoint
          ? 'What is trained so far is kept; the same command with --resume goes on.'
          : 'Nothing was kept.',
        { cause: error },
      )
    }
    await this.keep()
  }

  private get tokens(): number {
    const { phase, step } = this.progress
    return (this.phases.slice(0, phase).reduce((sum, { steps }) => sum + steps, 0) + step) * this.stepTokens
  }

  private get allTokens(): number {
    return this.phases.reduce((sum, { steps }) => sum + steps, 0) * this.stepTokens
  }

  private async step(phase: PlannedPhase): Promise<void> {
    const begun = performance.now()
    const { step, curve, seconds } = this.progress
    const result = await this.steps.take(phase, step)
    this.checkFinite(result)
    const learningRate = learningRateAt(phase, step)
    const scale = scaleOf(result, phase)
    this.student.set(
      adamStep(this.student.values, result.gradients, this.moments, { step: step + 1, learningRate, scale }),
    )
    const last = step + 1 === phase.steps
    const point = { phase: this.progress.phase, tokens: this.tokens + this.stepTokens, loss: result.loss }
    this.progress = {
      ...this.progress,
      phase: this.progress.phase + (last ? 1 : 0),
      step: last ? 0 : step + 1,
      curve: [...curve, point],
      seconds: { ...seconds, training: seconds.training + (performance.now() - begun) / 1000 },
    }
    if (last) this.moments = freshMoments(this.student.values)
    this.report(phase.name, result.loss)
  }

  private checkFinite({ loss }: StepResult): void {
    if (Number.isFinite(loss)) return
    throw new TrainingError(
      'NOT_FINITE',
      `a loss of ${loss} at ${this.tokens} tokens`,
      'finite losses',
      'Train with a smaller learning rate.',
    )
  }

  /** Perplexities: of both models before anything, at equal distances, and after each phase. */
  private async measureWhenDue(always: boolean): Promise<void> {
    const begun = performance.now()
    const { phase, step, perplexities } = this.progress
    if (this.progress.dense === null || this.progress.untrained === null) {
      const dense = this.progress.dense ?? (await this.perplexityOf(this.original, 'the original model'))
      this.progress = { ...this.progress, dense }
      const untrained = await this.perplexityOf(this.student, 'the untrained model')
      this.progress = { ...this.progress, untrained }
    } else {
      const { measurements = 0 } = this.options
      const done = perplexities.at(-1)?.tokens ?? 0
      const distance = measurements > 0 ? this.allTokens / measurements : Infinity
      const due = always || step === 0 || Math.floor(this.tokens / distance) > Math.floor(done / distance)
      if (!due || this.tokens === done) return
      const perplexity = await this.perplexityOf(this.student, 'held-out text')
      const point = { phase: step === 0 ? Math.max(0, phase - 1) : phase, tokens: this.tokens, perplexity }
      this.progress = { ...this.progress, perplexities: [...perplexities, point] }
      this.report('held-out text', null, perplexity)
    }
    const { seconds } = this.progress
    const measuring = seconds.measuring + (performance.now() - begun) / 1000
    this.progress = { ...this.progress, seconds: { ...seconds, measuring } }
  }

  private async perplexityOf(model: TrainableModel, label: string): Promise<number> {
    const { heldOut, signal } = this.options
    this.report(label, null)
    let total = 0
    let count = 0
    for (const ids of heldOut) {
      total += (await model.losses(ids, null, () => signal?.throwIfAborted())).nextToken
      count += ids.length - 1
    }
    return Math.exp(total / count)
  }

  private async keepWhenDue(): Promise<void> {
    const { everySeconds = 120 } = this.options.checkpoint ?? {}
    if (performance.now() - this.lastWrite >= everySeconds * 1000) await this.keep()
  }

  private async keep(): Promise<void> {
    const { checkpoint } = this.options
    if (!checkpoint) return
    const { progress, moments } = this
    await writeCheckpoint(checkpoint.file, this.settings, { progress, weights: this.student.values, moments })
    this.lastWrite = performance.now()
  }

  private report(label: string, loss: number | null, perplexity: number | null = null): void {
    const fraction = this.tokens / this.allTokens
    const done = this.tokens - this.startTokens
    const elapsed = (performance.now() - this.started) / 1000
    const secondsLeft = done > 0 ? (elapsed * (this.allTokens - this.tokens)) / done : null
    this.options.onProgress?.({ fraction, label, tokens: this.tokens, loss, perplexity, secondsLeft })
  }

  /** What there is to read of a run that is done. */
  record(): TrainingRecord {
    const { model, compressor, sequences, heldOut, batch = 1, seed = 0, learningRate = 1 } = this.options
    const { dense, untrained, curve, perplexities, seconds } = this.progress
    return {
      schemaVersion: 1,
      stages: compressor.stages.map(({ id, options }) => ({ id, options })),
      model: { name: model.shape.name, fingerprint: model.shape.fingerprint },
      trained: `${this.changed.shape.fingerprint}+trained(${fingerprintOf(this.student.values)})`,
      settings: { tokens: this.allTokens, sequence: sequences[0]?.length ?? 0, batch, seed, learningRate },
      phases: this.phases.map(({ name, loss, steps, learningRate: rate, passes = 1, weights }) => ({
        name,
        loss,
        steps,
        learningRate: rate,
        passes,
        weights,
      })),
      tokensTrained: this.tokens,
      sequences: sequences.length,
      heldOut: heldOut.length,
      trainedWeights: [...this.student.values.values()].reduce((sum, { length }) => sum + length, 0),
      dense: dense ?? Number.NaN,
      untrained: untrained ?? Number.NaN,
      perplexities,
      curve,
      seconds,
    }
  }
}

/** The longest gradient of a mean over tokens, over all weights of a step of the whole model; longer ones are shortened to it. */
const LONGEST_GRADIENT = 1

/** From sums over tokens to a mean; for the whole model of a bounded length. Layers by themselves have nothing to share a length for. */
function scaleOf({ gradients, tokens }: StepResult, { loss }: PlannedPhase): number {
  if (isLayerLoss(loss)) return 1 / tokens
  let squares = 0
  for (const values of gradients.values()) for (const g of values) squares += g * g
  const length = Math.sqrt(squares) / tokens
  return Math.min(1, LONGEST_GRADIENT / Math.max(length, Number.MIN_VALUE)) / tokens
}
