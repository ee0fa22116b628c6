/** Fits a compressor for each model of the suite, once, when the first test asks for it. */
import {
  type Artifact,
  calibrate,
  compose,
  type KVCompressor,
  ModelMismatch,
  type ModelShape,
  needsCalibration,
  openCache,
  type Ready,
  ready,
} from '@kvloom/core'
import { syntheticRun } from './synthetic-run'

export class Readiness {
  private readonly known = new Map<ModelShape, Promise<readonly Artifact[] | null>>()

  constructor(
    private readonly make: () => KVCompressor,
    private readonly given?: (model: ModelShape) => Promise<Ready>,
  ) {}

  /** The artifacts for a model; none for a compressor that needs no fit, and null when the method refuses the model. */
  artifacts(model: ModelShape): Promise<readonly Artifact[] | null> {
    const known = this.known.get(model) ?? this.fit(model)
    this.known.set(model, known)
    return known
  }

  private async fit(model: ModelShape): Promise<readonly Artifact[] | null> {
    try {
      const fitted = await this.fitted(model)
      openCache(model, fitted).dispose()
      return fitted.artifacts
    } catch (error) {
      if (error instanceof ModelMismatch) return null
      throw error
    }
  }

  private async fitted(model: ModelShape): Promise<Ready> {
    if (this.given) return this.given(model)
    const compressor = compose(this.make())
    return needsCalibration(compressor) ? calibrate(compressor, syntheticRun(model)) : ready(compressor)
  }
}
