// Every pair of methods, a sample of mixes of three and the named mixes, at sizes where windows fill, blocks are sealed and evictions happen within 200 tokens
// of the tiny model.
import { type KVCompressor, KvloomError } from '@kvloom/core'
import { composition, methods } from '@kvloom/methods'

/** Methods at small sizes, by name; further entries are what their refusals advise. The others run with their defaults. */
export const SMALL: Readonly<Record<string, readonly string[]>> = {
  kivi: ['kivi(bits=4, group=8, residual=32)'],
  higgs: ['higgs(bits=4, sinks=4, block=32)', 'higgs(bits=4, group=8, sinks=4, block=32)'],
  'coupled-quantization': [
    'coupled-quantization(channels=2, bits=6)',
    'coupled-quantization(channels=2, bits=6, sensitivity=none)',
    'coupled-quantization(channels=1, bits=4, sensitivity=none)',
  ],
  decoquant: ['decoquant(bits=6, block=32)', 'decoquant(bits=6, channels=8, block=32)'],
  kvquant: ['kvquant(bits=4)', 'kvquant(bits=4, sensitivity=none)'],
  'aqua-kv': ['aqua-kv(bits=3, sinks=4, block=32)', 'aqua-kv(bits=3, group=16, sinks=4, block=32)'],
  kvcrush: ['kvcrush(page=4, share=0.5)'],
  snapkv: ['snapkv(keep=0.5, window=16)'],
  'expected-attention': ['expected-attention(keep=0.5, future=64)'],
  think: ['think(prune=0.25, window=16, recent=16)'],
  'kv-latent': ['kv-latent(keyDim=24, valueDim=24)'],
  minicache: ['minicache(block=32)'],
  kvsharer: ['kvsharer(share=1)'],
  freqkv: ['freqkv(window=96, keep=0.5)'],
  clusterkv: ['clusterkv(budget=64, tokensPerCluster=16, sinks=4, every=16, clustersPerBlock=2, skipLayers=[0])'],
  lorc: ['lorc(rank=48)'],
  'compress-kv-heads': ['compress-kv-heads(rank=48)'],
  recalkv: ['recalkv(keep=0.75, block=16)'],
}
/** The exact zones that all get where methods propose different ones. */
const ONE_WINDOW = 'sinks=4, recent=0, block=32, drain=blocks'

/** Mixes that papers or people ask for by name. */
export const NAMED: readonly (readonly string[])[] = [
  ['kv-latent', 'snapkv', 'kivi'],
  ['lorc', 'aqua-kv'],
  ['think', 'kivi'],
  ['minicache', 'kivi'],
  ['kvsharer', 'tova', 'kivi'],
  ['fastgen', 'coupled-quantization'],
  ['clusterkv', 'aqua-kv'],
]

/** Which methods may stand where in a mix of three. */
const ROLES = {
  scorer: ['expected-attention', 'l2-norm', 'snapkv', 'tova'],
  eviction: ['expected-attention', 'fastgen', 'kvzip', 'l2-norm', 'snapkv', 'streaming-llm', 'tova'],
  budget: ['ada-kv'],
  model: ['kv-latent', 'kvsharer'],
  transform: ['lorc', 'minicache', 'think'],
  predictor: ['linear-predictor'],
  quantizer: ['block-formats', 'coupled-quantization', 'higgs', 'kivi'],
  recall: ['clusterkv'],
  recipe: ['aqua-kv'],
} as const
type Role = keyof typeof ROLES

/** Kinds of mix that people ask for, and how many of each are tried. */
const SHAPES: readonly (readonly [Role, Role, Role, number])[] = [
  ['eviction', 'transform', 'quantizer', 8],
  ['eviction', 'predictor', 'quantizer', 4],
  ['scorer', 'budget', 'quantizer', 5],
  ['scorer', 'budget', 'recall', 2],
  ['scorer', 'budget', 'transform', 3],
  ['model', 'eviction', 'quantizer', 6],
  ['model', 'eviction', 'recipe', 4],
  ['model', 'transform', 'quantizer', 6],
  ['transform', 'predictor', 'quantizer', 4],
  ['eviction', 'transform', 'recipe', 4],
  ['eviction', 'recall', 'quantizer', 4],
]

/** The same sample every time: of each shape, mixes a prime number of places apart in the list of all of them. */
const STRIDE = 29
export const THREES: readonly (readonly string[])[] = SHAPES.flatMap(([a, b, c, count]) => {
  const all = ROLES[a].flatMap((x) => ROLES[b].flatMap((y) => ROLES[c].map((z) => [x, y, z])))
  return Array.from({ length: Math.min(count, all.length) }, (_, i) => all[(i * STRIDE) % all.length] ?? [])
})

export const methodNames: readonly string[] = methods.map((m) => m.card.name)

/** Every method alone, every pair, a sample of mixes of three, and the named mixes. */
export function allCases(): readonly (readonly string[])[] {
  const pairs = methodNames.flatMap((a, i) => methodNames.slice(i + 1).map((b) => [a, b]))
  const known = new Set([...pairs, ...THREES].map(keyOf))
  return [...methodNames.map((name) => [name]), ...pairs, ...THREES, ...NAMED.filter((n) => !known.has(keyOf(n)))]
}

/** A mix, whatever the order of its methods. */
export const keyOf = (names: readonly string[]): string => [...names].sort().join()

/** What to try for a mix, in order: as it is, with one window for all, and both again with what refusals advise. */
export function candidates(names: readonly string[]): readonly string[] {
  const choices = names.reduce<readonly (readonly string[])[]>(
    (sofar, name) => (SMALL[name] ?? [name]).flatMap((text) => sofar.map((texts) => [...texts, text])),
    [[]],
  )
  return choices.flatMap((texts) =>
    texts.length === 1
      ? [texts.join('')]
      : [texts.join('+'), texts.map((text) => `window(${text}, ${ONE_WINDOW})`).join('+')],
  )
}

/** Builds a composition, or says why it is refused. */
export function composeText(text: string): { readonly compressor: KVCompressor } | { readonly refused: string } {
  try {
    return { compressor: composition(text) }
  } catch (error) {
    if (error instanceof KvloomError) return { refused: sentence(error.message) }
    throw error
  }
}

/** A message without the position that a parser adds. */
export const sentence = (message: string): string => message.replace(/ \(character \d+ of ".*"\)$/s, '').trim()

/** Refusals that one window for all may cure. */
export const ABOUT_WINDOWS = /propose different windows|have different windows/
