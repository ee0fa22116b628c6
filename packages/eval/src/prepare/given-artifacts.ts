/** Which artifacts belong to a composition. What a user gave is refused when it does not fit; what a cache of kvloom's own holds is left aside. */
import {
  type Artifact,
  artifactFingerprint,
  checkArtifact,
  type KVCompressor,
  learningStages,
  type ModelShape,
} from '@kvloom/core'

/** Of many artifacts those made for this model and compressor, one per stage: the last one given. */
export function fitting(
  artifacts: readonly Artifact[],
  model: ModelShape,
  compressor: KVCompressor,
): readonly Artifact[] {
  const learns = learningStages(compressor)
  const found = artifacts.filter(
    ({ stage, fingerprint }) => learns.has(stage) && fingerprint === artifactFingerprint(model, compressor, stage),
  )
  return [...new Map(found.map((artifact) => [artifact.stage, artifact])).values()]
}

/**
 * The given artifacts that fit; those of stages that this compressor does not have belong to other compositions.
 * @param model behind the compressor's model stages
 * @throws ArtifactMismatch, saying in words what differs, when a stage learns and none of the artifacts given for it fits
 */
export function givenFitting(
  given: readonly Artifact[],
  model: ModelShape,
  compressor: KVCompressor,
): readonly Artifact[] {
  const found = fitting(given, model, compressor)
  for (const stage of learningStages(compressor)) {
    const wrong = given.filter((artifact) => artifact.stage === stage).at(-1)
    if (wrong && !found.some((artifact) => artifact.stage === stage)) checkArtifact(model, compressor, wrong)
  }
  return found
}
