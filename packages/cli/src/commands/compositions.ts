/** Which compositions a comparison runs: from the configuration, the command line, or the default set. */
import { relative } from 'node:path'
import { compose, type KVCompressor, KvloomError } from '@kvloom/core'
import type { Composition } from '@kvloom/eval'
import { CompositionError, composition, type Method, messageInGrammar, methods as ownMethods } from '@kvloom/methods'
import { findConfig, type LoadedConfig, loadConfig, type WantedComposition } from '../config'
import type { ServedModules } from '../config-modules'
import { UsageError } from '../errors'

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

/** `--compressor`, or what older commands call it. @throws UsageError when both or none is given. */
export function oneCompressor(
  { compressor, composition }: { readonly compressor?: string; readonly composition?: string },
  otherwise?: string,
): string {
  if (compressor !== undefined && composition !== undefined)
    throw new UsageError('--compressor and --composition are the same; give --compressor alone.')
  const text = compressor ?? composition ?? otherwise
  if (text === undefined)
    throw new UsageError('--compressor is missing; give a composition, such as --compressor "aqua-kv(bits=2)".')
  return text
}

/** Where rows and further methods come from. */
export interface Asked {
  /** Compositions of the command line. */
  readonly compressor: readonly string[]
  readonly config?: string | undefined
  readonly modules?: ServedModules | undefined
}

/**
 * Builds everything before any work begins, so that a mistake costs nothing. Compositions of the command line replace those of a
 * configuration; its methods can be named by both. A configuration is said aloud.
 * @throws UsageError, CompositionError
 */
export async function chooseCompositions(asked: Asked): Promise<readonly Composition[]> {
  const config = await readConfig(asked)
  const methods = [...ownMethods, ...config.methods]
  const named = asked.compressor.map((text): WantedComposition => ({ name: text, from: text }))
  const wanted = named.length > 0 ? named : [...config.compositions]
  if (wanted.length === 0)
    for (const text of [...DEFAULT_COMPOSITIONS, ...config.methods.map((m) => m.card.name)])
      wanted.push({ name: text, from: text })
  return unique(wanted).map(({ name, from }) => ({
    name,
    compressor: typeof from === 'string' ? buildChecked(from, methods) : checked(name, () => compose(from)),
  }))
}

/** The methods that texts can name: kvloom's own and those of a configuration. @throws UsageError */
export async function knownMethods({ config, modules }: Omit<Asked, 'compressor'>): Promise<readonly Method[]> {
  return [...ownMethods, ...(await readConfig({ compressor: [], config, modules }, 'methods')).methods]
}

/** Builds one composition; what `compose` refuses is a mistake in the command. */
export const buildChecked = (text: string, methods: readonly Method[] = ownMethods): KVCompressor =>
  checked(text, () => composition(text, methods))

function checked(name: string, build: () => KVCompressor): KVCompressor {
  try {
    return build()
  } catch (error) {
    if (error instanceof CompositionError || !(error instanceof KvloomError)) throw error
    throw new UsageError(`"${name}": ${messageInGrammar(error)}`, { cause: error })
  }
}

const NOTHING: LoadedConfig = { compositions: [], methods: [], adapters: [] }

/** Reads the configuration that is named or lies in the current folder, and says on stderr what of it is used. */
async function readConfig(
  { compressor, config, modules }: Asked,
  wanted: 'methods' | 'all' = 'all',
): Promise<LoadedConfig> {
  const path = config ?? (await findConfig())
  if (path === null) return NOTHING
  const loaded = await loadConfig(path, modules)
  const { compositions, methods } = loaded
  const names = methods.map((m) => m.card.name).join(', ')
  const facts = [
    ...(methods.length > 0 ? [`${count(methods.length, 'method')} (${names})`] : []),
    ...(wanted === 'all' && compositions.length > 0
      ? [
          `${count(compositions.length, 'composition')}${compressor.length > 0 ? ', left aside: those of the command line replace them' : ''}`,
        ]
      : []),
  ]
  const place = config === undefined ? ' of this folder' : ''
  process.stderr.write(
    `Configuration ${relative('.', path) || path}${place}: ${facts.join('; ') || 'nothing of it is used'}.\n`,
  )
  return loaded
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`

/** The same name twice would be two rows that cannot be told apart. */
function unique(wanted: readonly WantedComposition[]): readonly WantedComposition[] {
  const seen = new Map<string, number>()
  return wanted.map(({ name, from }) => {
    const times = (seen.get(name) ?? 0) + 1
    seen.set(name, times)
    return { name: times === 1 ? name : `${name} #${times}`, from }
  })
}
