/** What `train` takes, and what it refuses. */
import { type KVCompressor, OptionError, type Training } from '@kvloom/core'
import type { Model } from '@kvloom/engine'
import { TrainingError } from './errors'

/** What `train` is told as it goes. */
export interface TrainProgress {
  /** Of all tokens, 0 to 1. */
  readonly fraction: number
  /** The phase's name, or what is measured. */
  readonly label: string
  readonly tokens: number
  readonly loss: number | null
  readonly perplexity: number | null
  readonly secondsLeft: number | null
}

/** Where a run keeps what it has. */
export interface CheckpointOptions {
  readonly file: string
  /** Go on from the file; it must be there and of the same run. Default false: the file must not be there. */
  readonly resume?: boolean
  /** With `resume`: train no more, measure once and give what the checkpoint holds. Default false. */
  readonly asIs?: boolean
  /** Seconds between two writes; one more comes at an interruption. Default 120. */
  readonly everySeconds?: number
}

/** Options of `train`. */
export interface TrainOptions {
  /** The original model; borrowed. */
  readonly model: Model
  /** Of `model` stages alone, one of which says how it is trained. */
  readonly compressor: KVCompressor
  /** Token ids to train on, all of one length. */
  readonly sequences: readonly Int32Array[]
  /** Token ids that perplexity is measured on; none of them should be trained on. */
  readonly heldOut: readonly Int32Array[]
  /** Tokens of all steps together; one that is used again counts again. Default 200,000. */
  readonly tokens?: number
  /** Sequences a step. Default 1. */
  readonly batch?: number
  /** Of the order of sequences. Default 0. */
  readonly seed?: number
  /** Multiplies the learning rates of all phases. Default 1. */
  readonly learningRate?: number
  /** How often perplexity is measured, besides once before and once after each phase. Default 0: not in between. */
  readonly measurements?: number
  /** Phases in place of the stage's own. */
  readonly training?: Training
  readonly checkpoint?: CheckpointOptions
  readonly onProgress?: (state: TrainProgress) => void
  readonly signal?: AbortSignal
}

/** Names of the options of `train`. */
export const OPTION_NAMES = ['model', 'compressor', 'sequences', 'heldOut', 'tokens', 'batch', 'seed', 'learningRate', 'measurements', 'training', 'checkpoint', 'onProgress', 'signal'] // biome-ignore format: one list

/** The training of the one stage that has one. @throws TrainingError */
export function trainingOf({ card, stages }: KVCompressor, given: Training | undefined): Training {
  const other = stages.find(({ kind }) => kind !== 'model')
  if (other)
    throw new TrainingError(
      'OTHER_STAGES',
      `${other.id}, a stage that acts on the cache`,
      'stages that change weights',
      'Train without it, and compose it when the trained model runs.',
    )
  const own = stages.flatMap(({ training }) => training ?? [])
  const [training] = given ? [given] : own
  if (!training || (!given && own.length > 1))
    throw new TrainingError(
      'NOTHING_TO_TRAIN',
      `${card.name}, with ${own.length} stages that say how they are trained`,
      'one such stage, such as kv-latent',
      'Name one method that is trained.',
    )
  return training
}

/** @throws OptionError */
export function checkNumbers(options: TrainOptions): void {
  const { model, sequences, heldOut, tokens = 1, batch = 1, seed = 0, learningRate = 1, measurements = 0 } = options
  const whole: readonly (readonly [string, number, number])[] = [
    ['tokens', tokens, 1],
    ['batch', batch, 1],
    ['seed', seed, 0],
    ['measurements', measurements, 0],
  ]
  for (const [name, value, least] of whole)
    if (!Number.isInteger(value) || value < least)
      throw new OptionError('train', name, value, `a whole number from ${least}`)
  if (!(learningRate > 0 && Number.isFinite(learningRate)))
    throw new OptionError('train', 'learningRate', learningRate, 'a number above 0')
  const length = sequences[0]?.length ?? 0
  const { contextLength } = model.shape
  for (const [name, texts] of [
    ['sequences', sequences],
    ['heldOut', heldOut],
  ] as const) {
    const fits = (ids: Int32Array): boolean => ids.length >= 2 && ids.length <= contextLength
    if (texts.length === 0 || !texts.every(fits))
      throw new OptionError(
        'train',
        name,
        texts.map((ids) => ids.length),
        `at least one, each of 2 to ${contextLength} tokens`,
      )
    const wrong = texts.flatMap((ids) => [...ids]).find((id) => id < 0 || id >= model.config.vocabSize)
    if (wrong !== undefined)
      throw new OptionError('train', name, wrong, `token ids from 0 to ${model.config.vocabSize - 1}`)
  }
  if (sequences.some((ids) => ids.length !== length))
    throw new OptionError(
      'train',
      'sequences',
      sequences.map((ids) => ids.length),
      'sequences of one length',
    )
}
