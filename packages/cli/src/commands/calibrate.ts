/** `kvloom calibrate`: fits a composition's stages on a model and a text; one file holds what they learned. */
import { readFile } from 'node:fs/promises'
import { relative } from 'node:path'
import { needsCalibration } from '@kvloom/core'
import { saveArtifacts } from '@kvloom/engine'
import {
  CALIBRATION_TEXT_NAME,
  type CalibrationData,
  calibrateComposition,
  calibrationKey,
  calibrationText,
  InterruptedError,
  loadIfThere,
  modelFor,
  PartialFile,
} from '@kvloom/eval'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { duration, progressLine } from '../terminal/progress'
import { buildChecked, knownMethods, oneCompressor } from './compositions'

export interface CalibrateFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly compressor?: string
  readonly composition?: string
  readonly config?: string
  readonly modules?: ServedModules | undefined
  readonly out: string
  readonly text?: string
  readonly sequences: number
  readonly tokens?: number
  readonly resume?: boolean
}

/** @returns the exit code. */
export async function calibrateCommand(flags: CalibrateFlags): Promise<number> {
  const asked = oneCompressor(flags)
  const compressor = buildChecked(asked, await knownMethods(flags))
  if (!needsCalibration(compressor))
    throw new UsageError(`${asked} has nothing to fit: it runs as it is, kvloom compare --compressor "${asked}".`)
  const text = await textOf(flags)
  return interruptible(async (signal) => {
    const loaded = await openModel(flags, signal)
    const line = progressLine()
    let model = loaded
    try {
      model = await modelFor(loaded, compressor, signal)
      const data: CalibrationData = {
        text,
        sequences: flags.sequences,
        ...(flags.tokens === undefined ? {} : { tokens: flags.tokens }),
      }
      const partialPath = `${flags.out}.${calibrationKey(model, compressor, data, text)}.partial`
      const known = flags.resume ? await loadIfThere(partialPath) : []
      if (flags.resume && known.length === 0)
        process.stderr.write('kvloom: nothing to resume for this model, composition and text; starting anew.\n')
      const partial = new PartialFile(partialPath)
      const started = performance.now()
      try {
        const artifacts = await calibrateComposition({
          model,
          compressor,
          data,
          known,
          signal,
          onPartial: partial.put,
          onProgress: (state) => line.show(state),
        })
        await saveArtifacts(flags.out, artifacts)
        await partial.remove()
      } catch (error) {
        await partial.close()
        if (error instanceof InterruptedError)
          process.stderr.write('\nkvloom: what is fitted so far is kept; the same command with --resume goes on.\n')
        throw error
      } finally {
        line.stop()
      }
      process.stdout.write(
        `${relative('.', flags.out) || flags.out}: ${asked} for ${flags.model ?? model.shape.name}, fitted on ${flags.text ?? CALIBRATION_TEXT_NAME} in ${duration((performance.now() - started) / 1000)}\n`,
      )
      return EXIT.ok
    } finally {
      if (model !== loaded) model.dispose()
      loaded.dispose()
    }
  })
}

async function textOf({ text }: CalibrateFlags): Promise<string> {
  if (text === undefined) return calibrationText()
  try {
    return await readFile(text, 'utf8')
  } catch (cause) {
    throw new UsageError(`the text ${text} cannot be read; --text takes a file of plain text.`, { cause })
  }
}
