// Made from the folders of the methods by `npm run method-lists`. Do not edit.
import { adaKv } from '@kvloom/ada-kv'
import { aquaKv } from '@kvloom/aqua-kv'
import { blockFormats } from '@kvloom/block-formats'
import { clusterkv } from '@kvloom/clusterkv'
import { compressKvHeads } from '@kvloom/compress-kv-heads'
import { coupledQuantization } from '@kvloom/coupled-quantization'
import { decoquant } from '@kvloom/decoquant'
import { deflate } from '@kvloom/deflate'
import { expectedAttention } from '@kvloom/expected-attention'
import { fastgen } from '@kvloom/fastgen'
import { freqkv } from '@kvloom/freqkv'
import { higgs } from '@kvloom/higgs'
import { kivi } from '@kvloom/kivi'
import { kvLatent } from '@kvloom/kv-latent'
import { kvcrush } from '@kvloom/kvcrush'
import { kvquant } from '@kvloom/kvquant'
import { kvsharer } from '@kvloom/kvsharer'
import { kvzip } from '@kvloom/kvzip'
import { l2Norm } from '@kvloom/l2-norm'
import { linearPredictor } from '@kvloom/linear-predictor'
import { lorc } from '@kvloom/lorc'
import { minicache } from '@kvloom/minicache'
import { none } from '@kvloom/none'
import { recalkv } from '@kvloom/recalkv'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { think } from '@kvloom/think'
import { tova } from '@kvloom/tova'
import type { Method } from '../method'

export {
  adaKv,
  aquaKv,
  blockFormats,
  clusterkv,
  compressKvHeads,
  coupledQuantization,
  decoquant,
  deflate,
  expectedAttention,
  fastgen,
  freqkv,
  higgs,
  kivi,
  kvLatent,
  kvcrush,
  kvquant,
  kvsharer,
  kvzip,
  l2Norm,
  linearPredictor,
  lorc,
  minicache,
  none,
  recalkv,
  snapkv,
  streamingLlm,
  think,
  tova,
}

/** Every method: families in the order of the workspace, in each by name. */
export const methods: readonly Method[] = [
  blockFormats,
  coupledQuantization,
  decoquant,
  higgs,
  kivi,
  kvquant,
  none,
  linearPredictor,
  adaKv,
  expectedAttention,
  fastgen,
  kvcrush,
  kvzip,
  l2Norm,
  snapkv,
  streamingLlm,
  tova,
  clusterkv,
  compressKvHeads,
  kvLatent,
  lorc,
  recalkv,
  think,
  freqkv,
  kvsharer,
  minicache,
  deflate,
  aquaKv,
]
