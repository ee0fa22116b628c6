/** Runs the cases of golden folders through methods. */
import { readdir, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { registerKernels } from '@kvloom/kernels'
import { setBackend } from '@tensorflow/tfjs-core'
import type { CaseAdapter, GoldenAdapter, Outcome, Presses } from './adapter'
import type { TensorResult } from './compare'
import { GoldenError } from './errors'
import { pressCases } from './kvpress'
import { type GoldenCase, readGoldenFolder } from './schema'

/** One case that was run. */
export interface GoldenResult {
  /** Name of the folder. */
  readonly folder: string
  readonly case: string
  /** `unknown` says that no adapter here runs the case. It counts as failed. */
  readonly status: 'passed' | 'failed' | 'unknown'
  readonly tensors: readonly TensorResult[]
  /** Why it failed, or what else a reader should know; may be empty. */
  readonly message: string
}

export interface GoldenOptions {
  /** The adapters at hand. Where two take the same cases, the first that knows a case runs it. */
  readonly adapters: readonly GoldenAdapter[]
  /** Runs only cases whose method, press or name begins with one of these. Default all. */
  readonly only?: readonly string[]
  /** Where to compute. It becomes tfjs's backend and stays it. Default wasm. */
  readonly backend?: 'cpu' | 'wasm'
}

/**
 * Runs every case of the folders, or of the folders right inside them, one by one.
 * @param paths folders that hold a golden.json, or golden.json files
 * @throws GoldenError when a path holds no golden data
 */
export async function* runGolden(paths: readonly string[], options: GoldenOptions): AsyncGenerator<GoldenResult, void> {
  const { only = [], backend = 'wasm' } = options
  const adapters = withPresses(options.adapters)
  await registerKernels(backend)
  await setBackend(backend)
  for (const path of (await Promise.all(paths.map(foldersOf))).flat()) {
    const folder = await readGoldenFolder(path, (method, json) =>
      adapters.find((adapter) => adapter.method === method && adapter.cases)?.cases?.(json),
    )
    for (const golden of folder.cases)
      if (only.length === 0 || only.some((prefix) => isCalled(golden, prefix)))
        yield { folder: basename(resolve(path)), case: golden.name, ...(await runCase(golden, adapters)) }
  }
}

const isCalled = (golden: GoldenCase, prefix: string): boolean =>
  [golden.method, golden.options['press'], golden.name].some(
    (name) => typeof name === 'string' && name.startsWith(prefix),
  )

async function runCase(
  golden: GoldenCase,
  adapters: readonly CaseAdapter[],
): Promise<Omit<GoldenResult, 'folder' | 'case'>> {
  try {
    const outcome = await firstOutcome(golden, adapters)
    if (!outcome) return { status: 'unknown', tensors: [], message: `no adapter here runs ${kindOf(golden)}` }
    const { tensors, message = '' } = outcome
    const failed = tensors.filter(({ passed }) => !passed)
    if (failed.length > 0)
      return { status: 'failed', tensors, message: failed.map(({ name, where }) => `${name} at ${where}`).join('; ') }
    return { status: 'passed', tensors, message }
  } catch (error) {
    return { status: 'failed', tensors: [], message: error instanceof Error ? error.message : String(error) }
  }
}

async function firstOutcome(golden: GoldenCase, adapters: readonly CaseAdapter[]): Promise<Outcome | null> {
  for (const adapter of adapters) {
    const outcome = adapter.method === golden.method ? await adapter.run(golden) : null
    if (outcome) return outcome
  }
  return null
}

/** The adapters that run cases, and one for all their presses. */
function withPresses(adapters: readonly GoldenAdapter[]): CaseAdapter[] {
  const presses: Presses = new Map(
    adapters.flatMap(({ press }) => (press ? [[press.name, press] as const] : [])).reverse(),
  )
  return [...adapters.filter((adapter): adapter is CaseAdapter => 'run' in adapter), pressCases(presses)]
}

function kindOf({ method, options }: GoldenCase): string {
  const press = options['press']
  return typeof press === 'string' ? `${method} ${press}` : method
}

/** The folder itself when it has a golden.json, else those of its subfolders that have one. */
async function foldersOf(path: string): Promise<string[]> {
  if (basename(path) === 'golden.json') return [join(path, '..')]
  if (await exists(join(path, 'golden.json'))) return [path]
  const inside = await readdir(path, { withFileTypes: true }).catch((cause: unknown) => {
    throw new GoldenError(`${path} is no folder that can be read.`, { cause })
  })
  const folders: string[] = []
  for (const entry of inside.sort((a, b) => a.name.localeCompare(b.name)))
    if (entry.isDirectory() && (await exists(join(path, entry.name, 'golden.json'))))
      folders.push(join(path, entry.name))
  if (folders.length === 0) throw new GoldenError(`${path} holds no golden.json, and no folder in it does.`)
  return folders
}

const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  )
