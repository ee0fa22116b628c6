import type { KVCompressor, MethodCard, OptionSchema } from '@kvloom/core'

/** What a list of methods needs of a method factory, whatever its options are called. Every `MethodFactory` is one. */
export interface Method {
  (options?: never): KVCompressor
  readonly card: MethodCard
  readonly options: OptionSchema
}
