/**
 * Calibration fits every stage that learns, on what the stage will receive when it runs. Fits of the whole model come first. Then it goes
 * layer by layer, keys before values, stage by stage; each stage is fitted on what the stages before it hand on, and a predictor on
 * reconstructions that went through its own quantizer.
 */
import { learningStages, ready } from '../artifacts'
import { askedOf } from '../asked'
import { sourceLayers } from '../cache/plan'
import { actsOn, compose } from '../compose'
import type { Artifact, CalibrationRun, KVCompressor, ModelShape, Part, Ready } from '../contract'
import { checkModel } from './check-model'
import { fitPart, type Rows } from './fit-part'
import { Fits } from './fits'
import { refuseGradientsAfterRope, rowsAsStored } from './key-side'

export interface CalibrateOptions {
  /** Artifacts of an interrupted calibration. What they hold is not fitted again; one that was fitted for something else is refused. */
  readonly known?: readonly Artifact[]
  /** Called with everything fitted so far, after each model-wide fit and each layer. */
  readonly onArtifacts?: (artifacts: readonly Artifact[]) => void | Promise<void>
  /** Aborts between two fits with the signal's reason. */
  readonly signal?: AbortSignal
}

/**
 * Fits what has to be fitted and returns a compressor that opens caches.
 * @throws what `checkModel` throws, before anything is fitted; CalibrationError, ArtifactMismatch for `known` of other settings, and what the fits throw
 */
export async function calibrate(
  compressor: KVCompressor,
  run: CalibrationRun,
  options: CalibrateOptions = {},
): Promise<Ready> {
  const whole = compose(compressor)
  checkModel(run.model, whole)
  refuseGradientsAfterRope(run.model, whole)
  const fits = new Fits(whole, run.model, options.known ?? [])
  const report = async () => {
    options.signal?.throwIfAborted()
    await options.onArtifacts?.(fits.artifacts())
  }
  for (const stage of whole.stages) {
    if (stage.fit?.scope !== 'model' || fits.has(stage.id, `model.${stage.on?.part ?? 'both'}`)) continue
    options.signal?.throwIfAborted()
    run.progress?.({ layer: 0, layers: run.model.layers, stage: stage.id, part: stage.on?.part ?? null })
    fits.add(
      stage.id,
      `model.${stage.on?.part ?? 'both'}`,
      await stage.fit.run(run, askedOf(run.model, whole, stage)),
      '',
    )
    await report()
  }
  if (leavesToFit(whole, run.model, fits)) await fitLayers(whole, run, fits, report)
  // A stage that acts on no layer of this model has learned nothing, and that is what its artifact says.
  for (const id of learningStages(whole)) fits.expect(id)
  return ready(whole, fits.artifacts())
}

/** Whether some layer and part still has a fit to come; if not, nobody needs the model's rows. */
const leavesToFit = (compressor: KVCompressor, { layers }: ModelShape, fits: Fits): boolean =>
  compressor.stages.some(
    (s) =>
      s.fit?.scope === 'layer' &&
      Array.from({ length: layers }, (_, layer) => layer).some(
        (layer) =>
          actsOn(s, layer) &&
          PARTS.some((part) => (s.on?.part ?? part) === part && !fits.has(s.id, `${layer}.${part}`)),
      ),
  )
const PARTS: readonly Part[] = ['keys', 'values']

async function fitLayers(
  compressor: KVCompressor,
  run: CalibrationRun,
  fits: Fits,
  report: () => Promise<void>,
): Promise<void> {
  const { model } = run
  const sources = sourceLayers(model, { compressor, artifacts: fits.artifacts(), ready: true })
  const predicts = compressor.stages.some((s) => s.kind === 'predict')
  let before: Partial<Record<Part, Rows>> = {}
  const group = new Map<number, Readonly<Record<Part, Rows>>>()
  for (let layer = 0; layer < model.layers; layer++) {
    if (sources[layer] !== layer) continue
    group.set(layer, rowsAsStored(model, compressor, layer, await run.rows(layer)))
    const now: Partial<Record<Part, Rows>> = {}
    for (const part of PARTS) {
      const made = await fitPart({ compressor, run, fits, layer, part, rows: group, before, now, predicts })
      if (made) now[part] = made
    }
    for (const old of group.keys()) if (old < layer - 3) group.delete(old)
    before = now
    await report()
  }
}
