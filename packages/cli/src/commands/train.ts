/** `kvloom train`: trains the weights that a method's model stage makes; the result is a folder that other commands take for `--model`. */
import { readdir, readFile, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { type Model, saveModel } from '@kvloom/engine'
import {
  CALIBRATION_TEXT_NAME,
  calibrationText,
  renderTrainingHtml,
  SAMPLE_TEXT_NAME,
  sampleText,
  writeAtomic,
} from '@kvloom/eval'
import { recovered, TrainingError, type TrainingRecord, textSequences, train } from '@kvloom/training'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { duration, progressLine } from '../terminal/progress'
import { buildChecked, knownMethods } from './compositions'

export interface TrainFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly config?: string
  readonly modules?: ServedModules | undefined
  readonly out: string
  readonly text: readonly string[]
  readonly heldOut?: string
  readonly heldOutSequences: number
  readonly tokens: number
  readonly sequence?: number
  readonly batch: number
  readonly seed: number
  readonly learningRate: number
  readonly measurements: number
  readonly resume?: boolean
  readonly asIs?: boolean
}

/** Tokens of a sequence when nobody says. */
const DEFAULT_SEQUENCE = 512

/** @returns the exit code. */
export async function trainCommand(asked: string, flags: TrainFlags): Promise<number> {
  const compressor = buildChecked(asked, await knownMethods(flags))
  if (flags.asIs && !flags.resume) throw new UsageError('--as-is writes what a checkpoint holds; give --resume too.')
  await refuseFull(flags.out)
  const text = await textOf(flags.text)
  const heldOutText = flags.heldOut === undefined ? await sampleText() : await readText(flags.heldOut)
  const checkpoint = `${flags.out}.checkpoint.safetensors`
  return interruptible(async (signal) => {
    const model = await openModel(flags, signal)
    const line = progressLine()
    try {
      const { tokens, batch, seed, learningRate, measurements } = flags
      const length = flags.sequence ?? Math.min(DEFAULT_SEQUENCE, model.shape.contextLength)
      const sequences = textSequences(text, model.tokenizer, { length })
      const heldOut = textSequences(heldOutText, model.tokenizer, { length, most: flags.heldOutSequences })
      process.stderr.write(
        `Trains on ${sequences.length} sequences of ${length} tokens of ${flags.text.join(', ') || CALIBRATION_TEXT_NAME}; perplexity is that of ${heldOut.length} sequences of ${flags.heldOut ?? SAMPLE_TEXT_NAME}.\n`,
      )
      const trained = await train({
        model,
        compressor,
        sequences,
        heldOut,
        tokens,
        batch,
        seed,
        learningRate,
        measurements,
        checkpoint: { file: checkpoint, resume: flags.resume === true, asIs: flags.asIs === true },
        signal,
        onProgress: ({ fraction, label, loss, perplexity, secondsLeft }) =>
          line.show({
            fraction,
            label,
            secondsLeft,
            detail:
              perplexity === null
                ? loss === null
                  ? null
                  : `loss ${loss.toPrecision(4)}`
                : `perplexity ${perplexity.toPrecision(4)}`,
          }),
      })
      line.stop()
      try {
        await keep(trained.model, trained.record, flags.out)
        if (trained.record.tokensTrained === trained.record.settings.tokens) await rm(checkpoint, { force: true })
      } finally {
        trained.model.dispose()
      }
      process.stdout.write(`${relative('.', flags.out) || flags.out}: ${summary(asked, model, trained.record)}\n`)
      return EXIT.ok
    } catch (error) {
      line.stop()
      if (error instanceof TrainingError && error.code === 'INTERRUPTED')
        process.stderr.write(`\nkvloom: ${error.cure}\n`)
      throw error
    } finally {
      line.stop()
      model.dispose()
    }
  })
}

async function keep(model: Model, record: TrainingRecord, out: string): Promise<void> {
  await saveModel(model, out)
  await writeAtomic(join(out, 'training.json'), `${JSON.stringify(record, null, 2)}\n`)
  await writeAtomic(join(out, 'training.html'), renderTrainingHtml(record))
}

function summary(asked: string, model: Model, record: TrainingRecord): string {
  const { tokensTrained, seconds, dense, untrained, perplexities } = record
  const last = perplexities.at(-1)?.perplexity ?? untrained
  const shown = (perplexity: number): string => perplexity.toPrecision(4)
  return `${asked} of ${model.shape.name}, trained on ${tokensTrained} tokens in ${duration(seconds.training)}; perplexity ${shown(untrained)} before, ${shown(last)} after, ${shown(dense)} of the original: ${(100 * recovered(record)).toFixed(1)} % of the loss is back`
}

/** A long training shall not end at a folder that is in use. @throws UsageError */
async function refuseFull(out: string): Promise<void> {
  const inside = await readdir(out).catch(() => [])
  if (inside.length > 0)
    throw new UsageError(
      `${out} holds ${inside[0]}; allowed: a new folder or an empty one. Choose another place with --out.`,
    )
}

/** All texts, one after the other; of a folder its .txt files by name. @throws UsageError */
async function textOf(places: readonly string[]): Promise<string> {
  if (places.length === 0) return calibrationText()
  const texts: string[] = []
  for (const place of places) {
    const isFolder = await stat(place).then(
      (found) => found.isDirectory(),
      () => false,
    )
    const files = isFolder
      ? (await readdir(place))
          .filter((name) => name.endsWith('.txt'))
          .sort()
          .map((name) => join(place, name))
      : [place]
    if (files.length === 0) throw new UsageError(`${place} has no .txt files; give files, or a folder that has some.`)
    for (const file of files) texts.push(await readText(file))
  }
  return texts.join('\n\n')
}

const readText = (file: string): Promise<string> =>
  readFile(file, 'utf8').catch((cause: unknown) => {
    throw new UsageError(`${file} cannot be read. Give a text file.`, { cause })
  })
