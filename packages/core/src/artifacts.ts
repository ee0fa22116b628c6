/** Pairs compressors with artifacts: it says which ones a compressor needs, and whether those that are given fit it. */
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'
import { compose } from './compose'
import type { AnyStage, Artifact, HostTensor, KVCompressor, ModelShape, Ready, Site } from './contract'
import { ArtifactMismatch, NotCalibrated } from './errors'
import { differenceInWords, fittedFor } from './fitted-for'

/**
 * Pairs a compressor with the artifacts of its fitted stages. Artifacts of stages that the compressor does not have are passed over.
 * @throws NotCalibrated when a stage that learns has no artifact; ArtifactMismatch when it has two, or one that was fitted for other
 *   stages or options. Whether the model is the right one shows when a cache is opened.
 */
export function ready(compressor: KVCompressor, artifacts: readonly Artifact[] = []): Ready {
  const whole = compose(compressor)
  for (const id of learningStages(whole)) {
    const [artifact, twin] = artifacts.filter((a) => a.stage === id)
    if (!artifact) throw new NotCalibrated(id, 'no artifact was given.')
    if (twin) throw new ArtifactMismatch(id, 'two artifacts of this stage were given.', 'Give the one that fits.')
    const was = artifact.fittedFor
    // The model is not known here, so it is not compared: the artifact's own stands in for it.
    const wanted = was && { ...was, stages: fittedFor(NO_MODEL, whole).stages }
    if (wanted && JSON.stringify(was.stages) !== JSON.stringify(wanted.stages))
      throw new ArtifactMismatch(id, differenceInWords(artifact, wanted))
  }
  return Object.freeze({ compressor: whole, artifacts, ready: true })
}

const NO_MODEL = { name: '', fingerprint: '' } as ModelShape

/** Whether a stage has to be fitted: it learns, and there may be a layer that it acts on. */
export const learns = ({ fit, on }: AnyStage): boolean =>
  fit !== undefined && (fit.scope === 'model' || !on?.layers?.every((layer) => on.except?.includes(layer)))

/** Ids of the stages that have to be fitted. */
export const learningStages = (compressor: KVCompressor): ReadonlySet<string> =>
  new Set(compressor.stages.filter(learns).map((s) => s.id))

/** Identifies what an artifact was fitted for: the model's weights, the stage, and the stages around it with their options. */
export function artifactFingerprint(model: ModelShape, compressor: KVCompressor, stage: string): string {
  const { weights, stages } = fittedFor(model, compressor)
  const around = stages.map(({ kind, id, options, on }) => [kind, id, options, on])
  return bytesToHex(sha256(new TextEncoder().encode(JSON.stringify([weights, stage, around]))))
}

/** @throws ArtifactMismatch when an artifact was fitted for another model, other options or other neighbouring stages; it says in words which */
export function checkArtifact(model: ModelShape, compressor: KVCompressor, artifact: Artifact): void {
  const wanted = artifactFingerprint(model, compressor, artifact.stage)
  if (artifact.fingerprint !== wanted)
    throw new ArtifactMismatch(artifact.stage, differenceInWords(artifact, fittedFor(model, compressor)))
}

/** @throws NotCalibrated, ArtifactMismatch */
export function checkArtifacts(model: ModelShape, { compressor, artifacts }: Ready): void {
  for (const id of learningStages(compressor)) {
    const artifact = artifactOf(artifacts, id)
    if (!artifact) throw new NotCalibrated(id, 'no artifact was given.')
    checkArtifact(model, compressor, artifact)
  }
}

/** Whether some stage has to be fitted before the compressor can open a cache. */
export const needsCalibration = (compressor: KVCompressor): boolean => compressor.stages.some(learns)

/** The artifact of a stage. */
export const artifactOf = (artifacts: readonly Artifact[], id: string): Artifact | undefined =>
  artifacts.find((a) => a.stage === id)

/** The tensor `name` that was learned for one layer and part. @throws ArtifactMismatch when it is missing, or has another shape */
export function learned(
  artifact: Artifact | undefined,
  site: Site,
  name: string,
  shape?: readonly number[],
): HostTensor {
  const found = artifact?.tensors[`${site.layer}.${site.part}.${name}`]
  if (!found)
    throw new ArtifactMismatch(
      artifact?.stage ?? name,
      `it holds no ${name} for the ${site.part} of layer ${site.layer}.`,
    )
  if (shape && (shape.length !== found.shape.length || shape.some((n, i) => n !== found.shape[i])))
    throw new ArtifactMismatch(
      artifact?.stage ?? name,
      `${name} of layer ${site.layer} has shape [${found.shape.join(', ')}] instead of [${shape.join(', ')}].`,
    )
  return found
}
