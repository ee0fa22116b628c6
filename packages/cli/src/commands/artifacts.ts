/** `--artifacts FILE`, as often as it is given. */
import type { Artifact } from '@kvloom/core'
import { loadArtifacts } from '@kvloom/engine'

/** Everything the files hold. @throws ArtifactFileError */
export const artifactsOf = async (files: readonly string[]): Promise<readonly Artifact[]> =>
  (await Promise.all(files.map((file) => loadArtifacts(file)))).flat()
