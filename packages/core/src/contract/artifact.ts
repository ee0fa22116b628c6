/** What a fitted stage learned. */
import type { ActsOn, Kind } from './kinds'
import type { HostTensor, Json } from './values'

/** What a fit returns; core adds the fingerprint. With scope `layer`, names are of one layer and part. */
export interface Learned {
  readonly json: Json
  readonly tensors: Readonly<Record<string, HostTensor>>
}

/** A stage that shapes rows, as an artifact remembers it. */
export interface FittedStage {
  readonly kind: Kind
  readonly id: string
  readonly options: Json
  readonly on: ActsOn | null
}

/** What an artifact was fitted for; its fingerprint hashes the same facts. */
export interface FittedFor {
  /** Name of the model, for people. */
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
  /** What the fingerprint stands for; absent in artifacts of an older kvloom. */
  readonly fittedFor?: FittedFor
  /** What the fits returned: by `<layer>.<part>` (scope `layer`), by `model.<part>` or `model.both` (scope `model`). */
  readonly json: Json
  /** Scope `layer`: named `<layer>.<part>.<name>`. */
  readonly tensors: Readonly<Record<string, HostTensor>>
}
