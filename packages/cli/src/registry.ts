/** The methods that compositions can name. A method package is added to the command line here, and only here. */
import type { KVCompressor, MethodCard, OptionSchema } from '@kvloom/core'
import { kivi } from '@kvloom/kivi'
import { l2Norm } from '@kvloom/l2-norm'
import { none } from '@kvloom/none'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { tova } from '@kvloom/tova'

/** What the command line needs of a method factory, whatever its options are called. Every `MethodFactory` is one. */
export interface Method {
  (options?: never): KVCompressor
  readonly card: MethodCard
  readonly options: OptionSchema
}

/** In the order of docs and tables: exact first, then quantizers, then eviction. */
export const methods: readonly Method[] = [none, kivi, streamingLlm, l2Norm, snapkv, tova]
