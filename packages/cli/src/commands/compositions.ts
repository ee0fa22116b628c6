/** Which compositions a comparison runs: from the configuration, the command line, or the default set. */
import { type KVCompressor, KvloomError } from '@kvloom/core'
import type { Composition } from '@kvloom/eval'
import { buildComposition } from '../composition/build'
import { findConfig, loadConfig, type WantedComposition } from '../config'
import { CompositionError, UsageError } from '../errors'
import { type Method, methods as ownMethods } from '../registry'

/** What `kvloom compare` runs when nothing is named: exact, quantized, evicted, both. */
export const DEFAULT_COMPOSITIONS = [
  'none',
  'kivi(bits=4, residual=32)',
  'kivi(bits=2, residual=32)',
  'higgs(bits=2)',
  'streaming-llm(keep=0.5)',
  'l2-norm(keep=0.5)',
  'snapkv(keep=0.5)',
  'tova(keep=0.5)',
  'snapkv(keep=0.5)+kivi(bits=4, residual=32)',
  'snapkv(keep=0.5)+kivi(bits=2, residual=32)',
] as const

/** Builds everything before any work begins, so that a mistake costs nothing. @throws UsageError, CompositionError */
export async function chooseCompositions(asked: {
  readonly compressor: readonly string[]
  readonly config?: string | undefined
}): Promise<readonly Composition[]> {
  const path = asked.config ?? (await findConfig())
  const config = path === null ? { compositions: [], methods: [] } : await loadConfig(path)
  const methods = [...ownMethods, ...config.methods]
  const wanted: WantedComposition[] = [
    ...config.compositions,
    ...asked.compressor.map((text) => ({ name: text, from: text })),
  ]
  if (wanted.length === 0)
    for (const text of [...DEFAULT_COMPOSITIONS, ...config.methods.map((m) => m.card.name)])
      wanted.push({ name: text, from: text })
  return unique(wanted).map(({ name, from }) => ({
    name,
    compressor: typeof from === 'string' ? buildChecked(from, methods) : from,
  }))
}

/** Builds one composition; what `compose` refuses is a mistake in the command. */
export function buildChecked(text: string, methods: readonly Method[] = ownMethods): KVCompressor {
  try {
    return buildComposition(text, methods)
  } catch (error) {
    if (error instanceof CompositionError || !(error instanceof KvloomError)) throw error
    throw new UsageError(`"${text}": ${error.message}`, { cause: error })
  }
}

/** The same name twice would be two rows that cannot be told apart. */
function unique(wanted: readonly WantedComposition[]): readonly WantedComposition[] {
  const seen = new Map<string, number>()
  return wanted.map(({ name, from }) => {
    const times = (seen.get(name) ?? 0) + 1
    seen.set(name, times)
    return { name: times === 1 ? name : `${name} #${times}`, from }
  })
}
