/** What a cache did with the tokens it saw, where a bare number of bits would puzzle: kept whole in some layers, or not sealed yet. */
import { type KVCache, type KVCompressor, NO_SEALING } from '@kvloom/core'

export interface Held {
  readonly tokens: number
  /** Rows that attention still sees over tokens seen, by layer. */
  readonly keptByLayer: readonly number[]
  /** Whether some row was sealed: quantized, or made a latent. */
  readonly sealed: boolean
}

/** Reads a cache; nothing is changed. */
export function heldBy(cache: KVCache): Held {
  const { model, tokensSeen: tokens } = cache
  let sealed = false
  const keptByLayer = Array.from({ length: model.layers }, (_, layer) => {
    const { keys, values, dead } = cache.census(cache.sourceLayer(layer))
    sealed ||= keys.sealed + values.sealed > 0
    const kept = (keys.exact + keys.sealed + values.exact + values.sealed) / 2 - dead
    return tokens === 0 ? 1 : Math.max(0, kept) / tokens
  })
  return { tokens, keptByLayer, sealed }
}

/** Sentences for people about what is held; none where the numbers speak for themselves. */
export function heldInWords(compressor: KVCompressor, held: Held): readonly string[] {
  return [...unsealed(compressor, held), ...uneven(compressor, held)]
}

/** All rows are exact although a stage seals: the window is not full yet. */
function unsealed({ stages, window = NO_SEALING }: KVCompressor, { tokens, sealed }: Held): readonly string[] {
  const sealing = [...new Set(stages.filter((s) => s.kind === 'quantize' || s.when === 'seal').map((s) => s.id))]
  if (sealed || tokens === 0 || sealing.length === 0) return []
  const first = Math.min(...[window.keys, window.values].map(({ recent, block }) => window.sinks + recent + block))
  const when = Number.isFinite(first) ? `its first rows are sealed when ${first} are held` : 'its window seals none'
  return [
    `All ${tokens} tokens are still in the exact window: ${sealing.join(' and ')} has compressed nothing yet (${when}).`,
  ]
}

/** Layers that keep everything beside others that drop: the mean over layers is then not what `keep` says. */
function uneven({ stages }: KVCompressor, { keptByLayer }: Held): readonly string[] {
  const whole = keptByLayer.flatMap((kept, layer) => (kept >= 1 ? [layer] : []))
  const dropping = keptByLayer.filter((kept) => kept < 1)
  if (whole.length === 0 || dropping.length === 0) return []
  const names = [...new Set(stages.filter((s) => DROPS.has(s.kind)).map(inWords))]
  const mean = dropping.reduce((sum, kept) => sum + kept, 0) / dropping.length
  return [
    `${listed(whole)} ${whole.length === 1 ? 'keeps' : 'keep'} every token, ${dropping.length === 1 ? 'the other layer' : `the other ${dropping.length} layers`} ${Math.round(mean * 100)} %${names.length > 0 ? ` (${names.join(', ')})` : ''}.`,
  ]
}

const DROPS: ReadonlySet<string> = new Set(['score', 'budget', 'pick', 'resample'])

/** A stage with the setting that spares layers, where it has one. */
function inWords({ id, on, options }: KVCompressor['stages'][number]): string {
  const spared = typeof options === 'object' && options !== null ? Reflect.get(options, 'skipLayers') : undefined
  if (Array.isArray(spared) && spared.length > 0) return `${id} has skipLayers=[${spared.join(', ')}]`
  if (on?.layers) return `${id} acts on layers ${on.layers.join(', ')}`
  return on?.except?.length ? `${id} leaves out layers ${on.except.join(', ')}` : id
}

/** `Layer 0`, `Layers 0 and 1`, `Layers 0, 1 and 29`. */
const listed = (layers: readonly number[]): string =>
  layers.length === 1 ? `Layer ${layers[0]}` : `Layers ${layers.slice(0, -1).join(', ')} and ${layers.at(-1)}`
