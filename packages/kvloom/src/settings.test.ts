/** Every method at settings drawn from what its options allow: refused by name, or right. */
import { testSettings } from '@kvloom/conformance'
import type { MethodFactory, OptionSchema } from '@kvloom/core'
import { methods } from '@kvloom/methods'
import { describe, expect, it } from 'vitest'
import { adaKv, expectedAttention, higgs, kivi, kvcrush, kvLatent, l2Norm, snapkv, streamingLlm, tova } from './index'

/** Options of every schema are drawn alike. */
const any = <S extends OptionSchema>(method: MethodFactory<S>) => method as unknown as MethodFactory

/** Ada-KV and KVCrush need a scorer. */
const NOT_ALONE = ['ada-kv', 'kvcrush']
const METHODS: readonly (readonly MethodFactory[])[] = [
  ...methods.filter(({ card }) => !NOT_ALONE.includes(card.name)).map((method) => [method as unknown as MethodFactory]),
  [any(snapkv), any(adaKv)],
  [any(expectedAttention), any(adaKv)],
  [any(l2Norm), any(adaKv), any(kivi)],
  [any(snapkv), any(kvcrush)],
  [any(expectedAttention), any(adaKv), any(kvcrush)],
  [any(tova), any(kvcrush), any(higgs)],
  [any(streamingLlm), any(kivi)],
  [any(tova), any(higgs)],
  [any(kvLatent), any(kivi)],
]

for (const mixed of METHODS)
  testSettings(
    { describe, it, expect },
    {
      name: mixed.map(({ card }) => card.name).join(' + '),
      methods: mixed,
      samples: Number(process.env['KVLOOM_SAMPLES'] ?? 4),
      seed: Number(process.env['KVLOOM_SEED'] ?? 1),
    },
  )
