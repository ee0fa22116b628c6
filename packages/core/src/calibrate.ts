/** Only a compressor whose artifacts fit opens a cache. Data-free compressors are ready at once. */

import { compose } from './compose'
import type { Artifact, KVCompressor, Ready } from './contract'
import { NotCalibrated } from './errors'

/**
 * Pairs a compressor with the artifacts of its fitted stages.
 * @throws NotCalibrated when a stage with `fit` has no artifact.
 */
export function ready(compressor: KVCompressor, artifacts: readonly Artifact[] = []): Ready {
  const whole = compose(compressor)
  for (const stage of whole.stages)
    if (stage.fit && !artifacts.some((a) => a.stage === stage.id))
      throw new NotCalibrated(stage.id, 'no artifact was given.')
  return Object.freeze({ compressor: whole, artifacts, ready: true })
}
