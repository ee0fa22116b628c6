/** A calibration on disk while it runs. */
import { access, rm } from 'node:fs/promises'
import type { Artifact } from '@kvloom/core'
import { ArtifactFileError, loadArtifacts, saveArtifacts } from '@kvloom/engine'

/** Keeps what is fitted so far in a file; short layers are not worth a write each. */
export class PartialFile {
  private newest: readonly Artifact[] | null = null
  private lastWrite = Number.NEGATIVE_INFINITY

  /** @param pause seconds between two writes; `close` writes what is newer. */
  constructor(
    private readonly file: string,
    private readonly pause = 5,
  ) {}

  readonly put = async (partial: readonly Artifact[]): Promise<void> => {
    this.newest = partial
    if (performance.now() - this.lastWrite >= this.pause * 1000) await this.close()
  }

  /** Writes what is not on disk yet. @throws ArtifactFileError */
  async close(): Promise<void> {
    const partial = this.newest
    if (!partial || partial.length === 0) return
    this.newest = null
    await saveArtifacts(this.file, partial)
    this.lastWrite = performance.now()
  }

  async remove(): Promise<void> {
    this.newest = null
    await rm(this.file, { force: true })
  }
}

/** What a file holds; nothing when it is not there or is damaged, since everything in it can be fitted again. */
export async function loadIfThere(file: string): Promise<readonly Artifact[]> {
  try {
    await access(file)
  } catch {
    return []
  }
  try {
    return await loadArtifacts(file)
  } catch (error) {
    if (error instanceof ArtifactFileError) return []
    throw error
  }
}
