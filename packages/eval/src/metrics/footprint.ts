/** What a cache holds: the ledger as it is, bits per value (resident and by formula), and the share of tokens kept. */
import { type Artifact, type ByteLedger, type KVCache, type Part, stagesOn } from '@kvloom/core'

/** Exact rows count as fp16 in the theoretical bits, whatever they are stored in. */
export const EXACT_BITS = 16

export interface Footprint {
  /** Tokens the cache has seen, dropped ones included. */
  readonly tokens: number
  /** By formula: exact rows at 16 bits, sealed rows at the quantizer's stated bits, over the values of all tokens seen. */
  readonly theoreticalBits: number
  /** Bytes really held (the ledger's total) · 8, over the values of all tokens seen. */
  readonly residentBits: number
  /** Rows that attention still sees, over tokens seen; mean over layers and parts. */
  readonly keptFraction: number
  readonly ledger: ByteLedger
}

/** Reads a cache's footprint; nothing is changed. `artifacts` are those it was opened with. */
export function footprintOf(cache: KVCache, artifacts: readonly Artifact[] = []): Footprint {
  const { model, tokensSeen: tokens } = cache
  const ledger = { ...cache.bytes() }
  if (tokens === 0) return { tokens, theoreticalBits: 0, residentBits: 0, keptFraction: 1, ledger }
  let bits = 0
  let kept = 0
  for (let layer = 0; layer < model.layers; layer++) {
    const census = cache.census(layer)
    for (const part of ['keys', 'values'] as const) {
      const { exact, sealed } = census[part]
      const width = part === 'keys' ? model.keyDim : model.valueDim
      const sealedBits = sealed > 0 ? sealedBitsPerValue(cache, layer, part, artifacts) : 0
      bits += (exact * EXACT_BITS + sealed * sealedBits) * model.kvHeads * width
      kept += Math.max(0, exact + sealed - census.dead)
    }
  }
  const values = tokens * model.layers * model.kvHeads * (model.keyDim + model.valueDim)
  return {
    tokens,
    theoreticalBits: bits / values,
    residentBits: (ledger.total * 8) / values,
    keptFraction: kept / (2 * model.layers * tokens),
    ledger,
  }
}

function sealedBitsPerValue(cache: KVCache, layer: number, part: Part, artifacts: readonly Artifact[]): number {
  const { model, compressor } = cache
  const [stage] = stagesOn(compressor, 'quantize', layer, part)
  if (!stage) return EXACT_BITS
  const dim = part === 'keys' ? model.keyDim : model.valueDim
  const artifact = artifacts.find((a) => a.stage === stage.id)
  return stage.bind({ layer, part, model, heads: model.kvHeads, dim }, artifact).theoreticalBitsPerValue
}
