/**
 * Trains the weights that a compressor's model stage makes, in the phases that the stage itself describes. State is a function of what was
 * given and of the number of steps: the same seed gives the same bytes, also where a run was interrupted and went on from its checkpoint.
 */
import { OptionError, ready, refuseUnknown } from '@kvloom/core'
import { applyModelStages, type Model, type TrainableModel, trainable, withWeights } from '@kvloom/engine'
import { checkpointExists } from './checkpoint'
import { TrainingError } from './errors'
import { checkNumbers, OPTION_NAMES, type TrainOptions, trainingOf } from './options'
import type { TrainingRecord } from './record'
import { Run } from './run'

/** A trained model, the caller's to dispose, and how it came about. */
export interface Trained {
  readonly model: Model
  readonly record: TrainingRecord
}

/**
 * Trains.
 * @throws TrainingError; OptionError; ModelMismatch of the compressor; with an aborted signal TrainingError('INTERRUPTED'), after the checkpoint was written
 */
export async function train(options: TrainOptions): Promise<Trained> {
  refuseUnknown('train', options, OPTION_NAMES)
  const { model, compressor, checkpoint } = options
  const training = trainingOf(compressor, options.training)
  checkNumbers(options)
  if (checkpoint?.asIs && !checkpoint.resume)
    throw new OptionError('train', 'checkpoint.asIs', true, 'true together with resume')
  if (checkpoint && !checkpoint.resume && (await checkpointExists(checkpoint.file)))
    throw new TrainingError(
      'CHECKPOINT_EXISTS',
      `${checkpoint.file}, the checkpoint of an earlier run`,
      'a place without one, or --resume',
      'Go on with it (--resume), remove it, or choose another place.',
    )
  const changed = await applyModelStages(model, ready(compressor))
  let original: TrainableModel | null = null
  let student: TrainableModel | null = null
  try {
    original = await trainable(model, [])
    student = await trainable(changed, [...new Set(training.phases.flatMap(({ weights }) => weights))])
    const run = new Run(options, training, changed, original, student)
    await run.begin()
    await run.go()
    const record = run.record()
    const trained = await withWeights(changed, student.values, record.trained)
    return { model: trained, record }
  } finally {
    original?.dispose()
    student?.dispose()
    if (changed !== model) changed.dispose()
  }
}
