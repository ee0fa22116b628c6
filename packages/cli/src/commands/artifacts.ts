/** `--artifacts FILE`, as often as it is given. */
import { type Artifact, type KVCompressor, learningStages } from '@kvloom/core'
import { loadArtifacts } from '@kvloom/engine'
import { UsageError } from '../errors'

/**
 * Everything the files hold. Whether it fits shows once the model is there.
 * @param compressors the compositions that may use it
 * @throws ArtifactFileError; UsageError for a file of stages that none of the compositions has
 */
export async function artifactsOf(
  files: readonly string[],
  compressors: readonly KVCompressor[],
): Promise<readonly Artifact[]> {
  const learns = new Set(compressors.flatMap((c) => [...learningStages(c)]))
  const all: Artifact[] = []
  for (const file of files) {
    const held = await loadArtifacts(file)
    const stages = [...new Set(held.map(({ stage }) => stage))]
    if (!stages.some((stage) => learns.has(stage)))
      throw new UsageError(
        `${file} holds what ${stages.join(', ') || 'nothing'} learned; ${
          learns.size === 0 ? 'nothing here learns' : `what learns here is ${[...learns].join(', ')}`
        }. Leave --artifacts out, or name the composition it was fitted for.`,
      )
    all.push(...held)
  }
  return all
}
