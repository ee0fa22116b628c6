/** What a fitted stage learned. */
import type { ActsOn, Kind } from './kinds'
import type { HostTensor, Json } from './values'

/** What a fit returns. Core adds the fingerprint and, with scope `layer`, the layer and part to every name. */
export interface Learned {
  readonly json: Json
  readonly tensors: Readonly<Record<string, HostTensor>>
}

/** What an artifact remembers of a stage that shapes rows. */
export interface FittedStage {
  readonly kind: Kind
  readonly id: string
  readonly options: Json
  readonly on: ActsOn | null
}

/** What an artifact was fitted for; its fingerprint hashes the same facts. */
export interface FittedFor {
  /** The model's name, for people to read. */
  readonly model: string
  /** The model's fingerprint. */
  readonly weights: string
  /** Every stage that shapes rows, in order. */
  readonly stages: readonly FittedStage[]
}

/** What a fitted stage learned: named tensors and JSON with a fingerprint of model, options and neighbouring stages. */
export interface Artifact {
  readonly stage: string
  readonly fingerprint: string
  /** What the fingerprint stands for. Artifacts of an older kvloom have none. */
  readonly fittedFor?: FittedFor
  /** What the fits returned, under `<layer>.<part>` with scope `layer`, and under `model.<part>` or `model.both` with scope `model`. */
  readonly json: Json
  /** The fits' tensors. With scope `layer` they are named `<layer>.<part>.<name>`, else as the fit names them. */
  readonly tensors: Readonly<Record<string, HostTensor>>
}
