/** What a cache holds: the ledger as it is, bits per value (resident and by formula), and the share of tokens kept. */
import type { ByteLedger, KVCache, ModelShape } from '@kvloom/core'

/** Exact rows count as fp16 in the theoretical bits, whatever they are stored in. */
export const EXACT_BITS = 16

export interface Footprint {
  /** Tokens the cache has seen, dropped ones included. */
  readonly tokens: number
  /** By formula: exact rows at 16 bits, sealed rows at what their stages state, over the values of all tokens seen. */
  readonly theoreticalBits: number
  /** Bytes really held (the ledger's total without tables of the model) · 8, over the values of all tokens seen. */
  readonly residentBits: number
  /** The same over the values of the tokens that attention still sees. */
  readonly liveBits: number
  /** Rows that attention still sees, over tokens seen; mean over layers and parts. */
  readonly keptFraction: number
  readonly ledger: ByteLedger
}

/**
 * Reads a cache's footprint; nothing is changed.
 * @param original the uncompressed model, whose values are counted: a model stage makes the cache's own smaller.
 */
export function footprintOf(cache: KVCache, original: ModelShape = cache.model): Footprint {
  const { model, tokensSeen: tokens } = cache
  const ledger = { ...cache.bytes() }
  if (tokens === 0) return { tokens, theoreticalBits: 0, residentBits: 0, liveBits: 0, keptFraction: 1, ledger }
  let bits = 0
  let kept = 0
  for (let layer = 0; layer < model.layers; layer++) {
    const source = cache.sourceLayer(layer)
    const census = cache.census(source)
    for (const part of ['keys', 'values'] as const) {
      const { exact, sealed, sealedBitsPerValue } = census[part]
      kept += Math.max(0, exact + sealed - census.dead)
      if (source !== layer) continue
      const width = model.kvHeads * (part === 'keys' ? model.keyDim : model.valueDim)
      bits += (exact * EXACT_BITS + sealed * sealedBitsPerValue) * width
    }
  }
  const values = tokens * original.layers * original.kvHeads * (original.keyDim + original.valueDim)
  const keptFraction = kept / (2 * model.layers * tokens)
  const residentBits = ((ledger.total - ledger.perModel) * 8) / values
  return {
    tokens,
    theoreticalBits: bits / values,
    residentBits,
    liveBits: keptFraction > 0 ? residentBits / keptFraction : 0,
    keptFraction,
    ledger,
  }
}

/**
 * Bytes that a cache's live rows need in the forms they are stored in, with the state, indexes and fits that the method keeps; and the
 * bytes of one page a part and lane, which page sizes alone may cost beside them.
 */
export function neededBytes(cache: KVCache): { readonly needed: number; readonly pages: number } {
  const { state, index, workspace, perPrompt } = cache.bytes()
  let [needed, pages] = [state + index + workspace + perPrompt, 0]
  for (let layer = 0; layer < cache.model.layers; layer++) {
    if (cache.sourceLayer(layer) !== layer) continue
    const { liveBytes, pageBytes } = cache.census(layer)
    needed += liveBytes
    pages += pageBytes
  }
  return { needed, pages }
}
