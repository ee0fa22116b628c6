/** The methods that compositions can name. A method package is added to the command line here, and only here. */

import { adaKv } from '@kvloom/ada-kv'
import { aquaKv } from '@kvloom/aqua-kv'
import { blockFormats } from '@kvloom/block-formats'
import { clusterkv } from '@kvloom/clusterkv'
import type { KVCompressor, MethodCard, OptionSchema } from '@kvloom/core'
import { coupledQuantization } from '@kvloom/coupled-quantization'
import { expectedAttention } from '@kvloom/expected-attention'
import { fastgen } from '@kvloom/fastgen'
import { freqkv } from '@kvloom/freqkv'
import { higgs } from '@kvloom/higgs'
import { kivi } from '@kvloom/kivi'
import { kvLatent } from '@kvloom/kv-latent'
import { kvsharer } from '@kvloom/kvsharer'
import { l2Norm } from '@kvloom/l2-norm'
import { linearPredictor } from '@kvloom/linear-predictor'
import { lorc } from '@kvloom/lorc'
import { minicache } from '@kvloom/minicache'
import { none } from '@kvloom/none'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { think } from '@kvloom/think'
import { tova } from '@kvloom/tova'

/** What the command line needs of a method factory, whatever its options are called. Every `MethodFactory` is one. */
export interface Method {
  (options?: never): KVCompressor
  readonly card: MethodCard
  readonly options: OptionSchema
}

/** In the order of docs and tables: exact first, then quantizers, then eviction. */
export const methods: readonly Method[] = [
  none,
  kivi,
  streamingLlm,
  l2Norm,
  snapkv,
  tova,
  higgs,
  coupledQuantization,
  linearPredictor,
  lorc,
  think,
  kvLatent,
  minicache,
  kvsharer,
  freqkv,
  clusterkv,
  fastgen,
  adaKv,
  expectedAttention,
  aquaKv,
  blockFormats,
]
