/** A `kvloom.config.ts` or `.json`: compositions and further methods for `kvloom compare`. */
import { access, readFile } from 'node:fs/promises'
import { extname, join, resolve } from 'node:path'
import type { KVCompressor } from '@kvloom/core'
import type { GoldenAdapter } from '@kvloom/golden'
import type { Method } from '@kvloom/methods'
import type { ServedModules } from './config-modules'
import { UsageError } from './errors'

export interface KvloomConfig {
  /** Rows of the comparison: compositions as text or as compressors, in a list or by name. */
  readonly compressors?: readonly (string | KVCompressor)[] | Readonly<Record<string, string | KVCompressor>>
  /** Methods beyond kvloom's own, by what `defineScorer` and its like return; texts can name them. */
  readonly methods?: readonly Method[]
  /** Adapters for golden data beyond kvloom's own, for `kvloom golden`. */
  readonly adapters?: readonly GoldenAdapter[]
}

/** A configuration with its types checked while it is written. */
export const defineConfig = (config: KvloomConfig): KvloomConfig => config

/** One row asked for: a text to build, or a compressor. */
export interface WantedComposition {
  readonly name: string
  readonly from: string | KVCompressor
}

export interface LoadedConfig {
  readonly compositions: readonly WantedComposition[]
  readonly methods: readonly Method[]
  readonly adapters: readonly GoldenAdapter[]
}

const FILES = ['kvloom.config.ts', 'kvloom.config.mts', 'kvloom.config.js', 'kvloom.config.mjs', 'kvloom.config.json']

/** The configuration of the current folder, if there is one. */
export async function findConfig(folder = process.cwd()): Promise<string | null> {
  for (const name of FILES) {
    const path = resolve(folder, name)
    if (await exists(path)) return path
  }
  return null
}

/**
 * Reads a configuration.
 * @param modules what it may import beyond the libraries of kvloom
 * @throws UsageError when it is missing, does not run, or has another form
 */
export async function loadConfig(path: string, modules: ServedModules = {}): Promise<LoadedConfig> {
  const full = resolve(path)
  if (!(await exists(full))) throw new UsageError(`${path} does not exist; --config takes a .ts, .js or .json file.`)
  const config = await evaluate(full, path, modules)
  return {
    compositions: compositionsOf(config, path),
    methods: methodsOf(config, path),
    adapters: adaptersOf(config, path),
  }
}

const FIELDS: readonly string[] = ['compressors', 'methods', 'adapters']

async function evaluate(
  full: string,
  path: string,
  modules: ServedModules,
): Promise<Readonly<Record<string, unknown>>> {
  let value: unknown
  try {
    value = extname(full) === '.json' ? JSON.parse(await readFile(full, 'utf8')) : await runModule(full, modules)
  } catch (cause) {
    throw new UsageError(
      `${path} cannot be loaded: ${cause instanceof Error ? cause.message.split('\n')[0] : String(cause)}`,
      { cause },
    )
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new UsageError(
      `${path} gives ${value === undefined ? 'no default export' : typeof value}; allowed: export default { compressors, methods, adapters }.`,
    )
  const wrong = Object.keys(value).find((key) => !FIELDS.includes(key))
  if (wrong !== undefined) throw new UsageError(`${path} has a field "${wrong}"; allowed: ${FIELDS.join(', ')}.`)
  return value as Readonly<Record<string, unknown>>
}

/** Runs a TypeScript or JavaScript module for its default export. */
const runModule = async (full: string, modules: ServedModules): Promise<unknown> =>
  (await loader(modules)).import(full, { default: true })

/** Loads modules from the current folder; their imports of kvloom's packages get the very modules that run here. */
async function loader(modules: ServedModules) {
  const { createJiti } = await import('jiti')
  const { configModules } = await import('./config-modules')
  return createJiti(join(process.cwd(), 'kvloom.js'), {
    virtualModules: await configModules({ defineConfig }, modules),
    fsCache: false,
    moduleCache: false,
    interopDefault: true,
  })
}

/** A package by its name, without a path in it. */
const PACKAGE = /^(?:@[^/]+\/)?[^./@\\][^/\\]*$/

/**
 * The `adapter` that a package exports on its subpath `./golden`, or that a file exports.
 * @param name a package, a path in one, or a file
 * @throws UsageError when it cannot be loaded or exports none
 */
export async function loadAdapter(name: string, modules: ServedModules = {}): Promise<GoldenAdapter> {
  const isFile = await exists(resolve(name))
  const id = isFile ? resolve(name) : PACKAGE.test(name) ? `${name}/golden` : name
  let module: unknown
  try {
    module = await (await loader(modules)).import(id)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
    throw new UsageError(
      `--adapter ${name} cannot be loaded: ${why} Give a file, or a package that is installed here with a subpath ./golden.`,
      { cause },
    )
  }
  const adapter = typeof module === 'object' && module !== null && 'adapter' in module ? module.adapter : undefined
  if (isAdapter(adapter)) return adapter
  throw new UsageError(`--adapter ${name}: ${id} exports no golden adapter of the name "adapter".`)
}

function compositionsOf(config: Readonly<Record<string, unknown>>, path: string): readonly WantedComposition[] {
  const given = config['compressors']
  if (given === undefined) return []
  if (typeof given !== 'object' || given === null)
    throw new UsageError(`${path}: compressors is ${typeof given}; allowed: a list, or an object of names.`)
  const entries: readonly (readonly [string | null, unknown])[] = Array.isArray(given)
    ? given.map((each: unknown) => [null, each] as const)
    : Object.entries(given)
  return entries.map(([name, from], i) => {
    if (typeof from === 'string') return { name: name ?? from, from }
    if (isCompressor(from)) return { name: name ?? from.card.name, from }
    throw new UsageError(
      `${path}: compressors, entry ${name ?? i + 1}: allowed are texts such as "kivi(bits=2)" and compressors.${isMethod(from) ? ' This is a method: call it.' : ''}`,
    )
  })
}

function methodsOf(config: Readonly<Record<string, unknown>>, path: string): readonly Method[] {
  const given = config['methods'] ?? []
  if (!Array.isArray(given)) throw new UsageError(`${path}: methods is ${typeof given}; allowed: a list of methods.`)
  return given.map((each: unknown, i) => {
    if (isMethod(each)) return each
    throw new UsageError(
      `${path}: methods, entry ${i + 1} is no method; allowed: what defineScorer, definePick or defineQuantizer returns, not called.`,
    )
  })
}

function adaptersOf(config: Readonly<Record<string, unknown>>, path: string): readonly GoldenAdapter[] {
  const given = config['adapters'] ?? []
  if (!Array.isArray(given)) throw new UsageError(`${path}: adapters is ${typeof given}; allowed: a list of adapters.`)
  return given.map((each: unknown, i) => {
    if (isAdapter(each)) return each
    throw new UsageError(`${path}: adapters, entry ${i + 1} is no adapter; allowed: { method, run } or { press }.`)
  })
}

const isAdapter = (value: unknown): value is GoldenAdapter =>
  typeof value === 'object' &&
  value !== null &&
  (('method' in value && 'run' in value && typeof value.run === 'function') || 'press' in value)

const isCompressor = (value: unknown): value is KVCompressor =>
  typeof value === 'object' && value !== null && 'card' in value && 'stages' in value && Array.isArray(value.stages)

const isMethod = (value: unknown): value is Method =>
  typeof value === 'function' && 'card' in value && 'options' in value

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )
