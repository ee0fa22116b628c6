import { aquakv } from './aquakv'
import { clusterkv } from './clusterkv'
import { cq } from './cq'
import { fastgen } from './fastgen'
import { freqkv } from './freqkv'
import { ggmlBlocks } from './ggml-blocks'
import { higgs } from './higgs'
import { kivi } from './kivi'
import { kvLatent } from './kv-latent'
import { kvpress } from './kvpress'
import { kvsharer } from './kvsharer'
import { l2norm } from './l2norm'
import { lorc } from './lorc'
import { minicache } from './minicache'
import { think } from './think'
import { tova } from './tova'
import type { Adapter } from './types'

/** Adapters by the `method` of a golden.json. */
export const ADAPTERS: Readonly<Record<string, Adapter>> = {
  clusterkv,
  cq,
  fastgen,
  aquakv,
  'kv-latent': kvLatent,
  kvsharer,
  higgs,
  kivi,
  kvpress,
  freqkv,
  'ggml-blocks': ggmlBlocks,
  l2norm,
  lorc,
  think,
  minicache,
  tova,
}
