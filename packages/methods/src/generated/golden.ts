// Made from the folders of the methods by `npm run method-lists`. Do not edit.
import { adapter as adaKv } from '@kvloom/ada-kv/golden'
import { adapter as aquaKv } from '@kvloom/aqua-kv/golden'
import { adapter as blockFormats } from '@kvloom/block-formats/golden'
import { adapter as clusterkv } from '@kvloom/clusterkv/golden'
import { adapter as compressKvHeads } from '@kvloom/compress-kv-heads/golden'
import { adapter as coupledQuantization } from '@kvloom/coupled-quantization/golden'
import { adapter as decoquant } from '@kvloom/decoquant/golden'
import { adapter as expectedAttention } from '@kvloom/expected-attention/golden'
import { adapter as fastgen } from '@kvloom/fastgen/golden'
import { adapter as freqkv } from '@kvloom/freqkv/golden'
import { adapter as higgs } from '@kvloom/higgs/golden'
import { adapter as kivi } from '@kvloom/kivi/golden'
import { adapter as kvLatent } from '@kvloom/kv-latent/golden'
import { adapter as kvcrush } from '@kvloom/kvcrush/golden'
import { adapter as kvquant } from '@kvloom/kvquant/golden'
import { adapter as kvsharer } from '@kvloom/kvsharer/golden'
import { adapter as kvzip } from '@kvloom/kvzip/golden'
import { adapter as l2Norm } from '@kvloom/l2-norm/golden'
import { adapter as lorc } from '@kvloom/lorc/golden'
import { adapter as minicache } from '@kvloom/minicache/golden'
import { adapter as recalkv } from '@kvloom/recalkv/golden'
import { adapter as snapkv } from '@kvloom/snapkv/golden'
import { adapter as streamingLlm } from '@kvloom/streaming-llm/golden'
import { adapter as think } from '@kvloom/think/golden'
import { adapter as tova } from '@kvloom/tova/golden'
import type { GoldenAdapter } from '@kvloom/golden'

/** The adapter of every method that has golden data. */
export const adapters: readonly GoldenAdapter[] = [
  adaKv,
  aquaKv,
  blockFormats,
  clusterkv,
  compressKvHeads,
  coupledQuantization,
  decoquant,
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
  lorc,
  minicache,
  recalkv,
  snapkv,
  streamingLlm,
  think,
  tova,
]
