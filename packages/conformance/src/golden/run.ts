/** Runs golden folders against the methods. */
import { readdir, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { registerKernels } from '@kvloom/kernels'
import { setBackend } from '@tensorflow/tfjs-core'
import { ADAPTERS } from './adapters/index'
import type { GoldenMethods } from './adapters/types'
import type { TensorResult } from './compare'
import { GoldenError } from './errors'
import { type GoldenCase, readGoldenFolder } from './schema'

/** One case that was run. */
export interface GoldenResult {
  /** Name of the folder. */
  readonly folder: string
  readonly case: string
  /** `unknown`: no method here runs it. Counts as failed. */
  readonly status: 'passed' | 'failed' | 'unknown'
  readonly tensors: readonly TensorResult[]
  /** Why it failed, or what else a reader should know; may be empty. */
  readonly message: string
}

export interface GoldenOptions {
  readonly methods: GoldenMethods
  /** Only cases whose method, press or name begins with one of these. Default all. */
  readonly only?: readonly string[]
  /** Where to compute; it becomes and stays tfjs's backend. Default wasm. */
  readonly backend?: 'cpu' | 'wasm'
}

/**
 * Runs every case of the folders, or of the folders right inside them, one by one.
 * @param paths folders that hold a golden.json, or golden.json files
 * @throws GoldenError when a path holds no golden data
 */
export async function* runGolden(paths: readonly string[], options: GoldenOptions): AsyncGenerator<GoldenResult, void> {
  const { methods, only = [], backend = 'wasm' } = options
  await registerKernels(backend)
  await setBackend(backend)
  for (const path of (await Promise.all(paths.map(foldersOf))).flat()) {
    const folder = await readGoldenFolder(path)
    for (const golden of folder.cases)
      if (only.length === 0 || only.some((prefix) => isCalled(golden, prefix)))
        yield { folder: basename(resolve(path)), case: golden.name, ...(await runCase(golden, methods)) }
  }
}

const isCalled = (golden: GoldenCase, prefix: string): boolean =>
  [golden.method, golden.options['press'], golden.name].some(
    (name) => typeof name === 'string' && name.startsWith(prefix),
  )

async function runCase(golden: GoldenCase, methods: GoldenMethods): Promise<Omit<GoldenResult, 'folder' | 'case'>> {
  try {
    const outcome = await ADAPTERS[golden.method]?.(golden, methods)
    if (!outcome) return { status: 'unknown', tensors: [], message: `no method here runs ${kindOf(golden)}` }
    const { tensors, message = '' } = outcome
    const failed = tensors.filter(({ passed }) => !passed)
    if (failed.length > 0)
      return { status: 'failed', tensors, message: failed.map(({ name, where }) => `${name} at ${where}`).join('; ') }
    return { status: 'passed', tensors, message }
  } catch (error) {
    return { status: 'failed', tensors: [], message: error instanceof Error ? error.message : String(error) }
  }
}

function kindOf({ method, options }: GoldenCase): string {
  const press = options['press']
  return typeof press === 'string' ? `${method} ${press}` : method
}

/** A folder with a golden.json, else its subfolders that have one. */
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
