/** `kvloom convert`: writes the model that a composition runs on, as a folder that every other command takes for `--model`. */
import { relative } from 'node:path'
import { type Artifact, type KVCompressor, type ModelShape, siteOf } from '@kvloom/core'
import { type Model, saveModel } from '@kvloom/engine'
import { artifactCacheDir, prepareComposition } from '@kvloom/eval'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { progressLine } from '../terminal/progress'
import { artifactsOf } from './artifacts'
import { buildChecked, knownMethods, oneCompressor } from './compositions'

export interface ConvertFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly compressor?: string
  readonly composition?: string
  readonly config?: string
  readonly modules?: ServedModules | undefined
  readonly artifacts: readonly string[]
  readonly out: string
}

/** @returns the exit code. */
export async function convertCommand(flags: ConvertFlags): Promise<number> {
  const asked = oneCompressor(flags)
  const compressor = buildChecked(asked, await knownMethods(flags))
  refuseOtherStages(compressor, asked)
  const given = await artifactsOf(flags.artifacts, [compressor])
  return interruptible(async (signal) => {
    const model = await openModel(flags, signal)
    const line = progressLine()
    try {
      const prepared = await prepareComposition({
        model,
        compressor,
        given,
        signal,
        cacheDir: artifactCacheDir(flags.cacheDir),
        onProgress: (state) => line.show(state),
      })
      line.stop()
      try {
        refuseSharing(compressor, model, prepared.artifacts)
        await saveModel(prepared.model, flags.out, { signal })
        const [before, after] = [numbersPerToken(model.shape), numbersPerToken(prepared.model.shape)]
        process.stdout.write(
          `${relative('.', flags.out) || flags.out}: ${asked} of ${model.shape.name}; ${after} cached numbers a token instead of ${before}\n`,
        )
        return EXIT.ok
      } finally {
        prepared.dispose()
      }
    } finally {
      line.stop()
      model.dispose()
    }
  })
}

/** @throws UsageError for stages that act on a cache: no model file holds them. */
function refuseOtherStages({ stages }: KVCompressor, composition: string): void {
  const other = stages.find((stage) => stage.kind !== 'model')
  if (other)
    throw new UsageError(
      `"${composition}": ${other.id} acts on the cache, not on weights; convert without it, and compose it when the new model runs.`,
    )
  if (stages.length === 0) throw new UsageError(`"${composition}" changes no weights; there is nothing to convert.`)
}

/** @throws UsageError for model stages that act while the model runs. */
function refuseSharing({ stages }: KVCompressor, model: Model, artifacts: readonly Artifact[]): void {
  for (const stage of stages) {
    if (stage.kind !== 'model') continue
    const bound = stage.bind(
      siteOf(model.shape, 0, 'keys'),
      artifacts.find((artifact) => artifact.stage === stage.id),
    )
    if (!bound.transform || bound.sourceLayer)
      throw new UsageError(
        `${stage.id} shares layers while a model runs, and no model file holds that; compose it when the model runs.`,
      )
  }
}

const numbersPerToken = ({ layers, kvHeads, keyDim, valueDim }: ModelShape): number =>
  layers * kvHeads * (keyDim + valueDim)
