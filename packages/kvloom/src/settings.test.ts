/** Every method at settings drawn from what its options allow: refused by name, or right. KV-Latent needs weights that it changed itself. */
import { testSettings } from '@kvloom/conformance'
import type { MethodFactory, OptionSchema } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import {
  adaKv,
  aquaKv,
  blockFormats,
  clusterkv,
  coupledQuantization,
  expectedAttention,
  fastgen,
  freqkv,
  higgs,
  kivi,
  kvsharer,
  l2Norm,
  linearPredictor,
  lorc,
  minicache,
  none,
  snapkv,
  streamingLlm,
  think,
  tova,
} from './index'

/** Options of every schema are drawn alike. */
const any = <S extends OptionSchema>(method: MethodFactory<S>) => method as unknown as MethodFactory

const METHODS: readonly (readonly MethodFactory[])[] = [
  [any(snapkv), any(adaKv)],
  [any(expectedAttention), any(adaKv)],
  [any(l2Norm), any(adaKv), any(kivi)],
  [any(aquaKv)],
  [any(blockFormats)],
  [any(clusterkv)],
  [any(coupledQuantization)],
  [any(expectedAttention)],
  [any(fastgen)],
  [any(freqkv)],
  [any(higgs)],
  [any(kivi)],
  [any(kvsharer)],
  [any(l2Norm)],
  [any(linearPredictor)],
  [any(lorc)],
  [any(minicache)],
  [any(none)],
  [any(snapkv)],
  [any(streamingLlm)],
  [any(streamingLlm), any(kivi)],
  [any(think)],
  [any(tova)],
  [any(tova), any(higgs)],
]

for (const methods of METHODS)
  testSettings(
    { describe, it, expect },
    {
      name: methods.map(({ card }) => card.name).join(' + '),
      methods,
      samples: Number(process.env['KVLOOM_SAMPLES'] ?? 4),
      seed: Number(process.env['KVLOOM_SEED'] ?? 1),
    },
  )
