import { artifactFingerprint, checkArtifact } from '../artifacts'
import type { Artifact, HostTensor, Json, KVCompressor, Learned, ModelShape } from '../contract'
import { fittedFor } from '../fitted-for'

/** What was fitted so far, by stage. */
export class Fits {
  private readonly json = new Map<string, Record<string, Json>>()
  private readonly tensors = new Map<string, Record<string, HostTensor>>()

  constructor(
    private readonly compressor: KVCompressor,
    private readonly model: ModelShape,
    known: readonly Artifact[],
  ) {
    for (const artifact of known) {
      checkArtifact(model, compressor, artifact)
      const { stage, json, tensors } = artifact
      this.json.set(stage, { ...(json as Record<string, Json>) })
      this.tensors.set(stage, { ...tensors })
    }
  }

  has(stage: string, key: string): boolean {
    return this.json.get(stage)?.[key] !== undefined
  }
  /** Makes sure that a stage has an artifact, if only an empty one. */
  expect(stage: string): void {
    if (!this.json.has(stage)) this.json.set(stage, {})
  }
  add(stage: string, key: string, { json, tensors }: Learned, prefix: string): void {
    this.json.set(stage, { ...this.json.get(stage), [key]: json })
    const named = Object.entries(tensors).map(([name, t]) => [`${prefix}${name}`, t] as const)
    this.tensors.set(stage, { ...this.tensors.get(stage), ...Object.fromEntries(named) })
  }
  artifacts(): readonly Artifact[] {
    return [...this.json.keys()].map((stage) => ({
      stage,
      fingerprint: artifactFingerprint(this.model, this.compressor, stage),
      fittedFor: fittedFor(this.model, this.compressor),
      json: this.json.get(stage) ?? {},
      tensors: this.tensors.get(stage) ?? {},
    }))
  }
}
