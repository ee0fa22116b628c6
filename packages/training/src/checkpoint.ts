/**
 * A run's state as one safetensors file (Node): tensors `weights/NAME`, `first/NAME`, `second/NAME`, everything else as JSON in the metadata
 * entry "kvloom-training", a SHA-256 over all of it in "sha256". Written whole or not at all.
 */
import { access, readFile } from 'node:fs/promises'
import {
  type Described,
  ModelFileError,
  openDescribed,
  type TensorToWrite,
  type WeightValues,
  writeDescribed,
} from '@kvloom/engine'
import type { Moments } from './adam'
import { TrainingError } from './errors'
import type { CurvePoint, PerplexityPoint } from './record'

const VERSION = 1
/** Name of the metadata entry. */
const KEY = 'kvloom-training'

/** How far a run is. */
export interface Progressed {
  readonly phase: number
  /** Steps of that phase that are done. */
  readonly step: number
  readonly dense: number | null
  readonly untrained: number | null
  readonly curve: readonly CurvePoint[]
  readonly perplexities: readonly PerplexityPoint[]
  readonly seconds: { readonly training: number; readonly measuring: number }
}

/** What a checkpoint holds. */
export interface Checkpoint {
  readonly progress: Progressed
  readonly weights: WeightValues
  readonly moments: ReadonlyMap<string, Moments>
}

interface Contents {
  readonly version: number
  /** What is trained on what, as JSON; a run of other settings does not go on from here. */
  readonly settings: string
  readonly progress: Progressed
}

/** Whether there is a file. */
export const checkpointExists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )

/** @throws TrainingError('CANNOT_WRITE'); an older file stays as it was */
export async function writeCheckpoint(file: string, settings: string, state: Checkpoint): Promise<void> {
  const tensors: Record<string, TensorToWrite> = {}
  for (const [name, data] of state.weights) tensors[`weights/${name}`] = { shape: [data.length], data }
  for (const [name, { first, second }] of state.moments) {
    tensors[`first/${name}`] = { shape: [first.length], data: first }
    tensors[`second/${name}`] = { shape: [second.length], data: second }
  }
  const contents: Contents = { version: VERSION, settings, progress: state.progress }
  try {
    await writeDescribed(file, KEY, JSON.stringify(contents), tensors)
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    throw new TrainingError(
      'CANNOT_WRITE',
      `${file}, which cannot be written (${reason})`,
      `a place with room for ${Math.ceil(sizeOf(tensors) / 2 ** 20)} MiB`,
      'Choose another place or free some space.',
      { cause },
    )
  }
}

/**
 * Reads a checkpoint of a run with these settings.
 * @throws TrainingError('CHECKPOINT_MISSING'), ('CHECKPOINT_DAMAGED'), ('CHECKPOINT_MISMATCH'); the file stays as it is
 */
export async function readCheckpoint(file: string, settings: string, names: Iterable<string>): Promise<Checkpoint> {
  const { text, tensors, isWhole } = await readAll(file)
  if (text === undefined) return damaged(file, 'it holds no training')
  const contents = parse(file, text)
  if (contents.version !== VERSION)
    throw new TrainingError(
      'CHECKPOINT_MISMATCH',
      `${file}, a checkpoint of version ${contents.version}`,
      `version ${VERSION}`,
      'Go on with the kvloom that wrote it, or begin anew at another place.',
    )
  if (!(await isWhole())) return damaged(file, 'its SHA-256 differs')
  if (contents.settings !== settings)
    throw new TrainingError(
      'CHECKPOINT_MISMATCH',
      `${file}, a checkpoint of another run (${firstDifference(contents.settings, settings)})`,
      'the model, composition, text and settings that it was begun with',
      'Repeat the command it was begun with, or begin anew at another place.',
    )
  const get = (name: string): Float32Array => {
    const data = tensors[name]?.data
    return data instanceof Float32Array ? data : damaged(file, `it lacks ${name}`)
  }
  const weights = new Map<string, Float32Array>()
  const moments = new Map<string, Moments>()
  for (const name of names) {
    weights.set(name, get(`weights/${name}`))
    moments.set(name, { first: get(`first/${name}`), second: get(`second/${name}`) })
  }
  return { progress: contents.progress, weights, moments }
}

async function readAll(file: string): Promise<Described> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(file)
  } catch (cause) {
    throw new TrainingError(
      'CHECKPOINT_MISSING',
      `${file}, which cannot be read`,
      'a checkpoint as training writes it',
      'Leave --resume out to begin anew, or check the path.',
      { cause },
    )
  }
  try {
    return await openDescribed(bytes, file, KEY)
  } catch (cause) {
    if (cause instanceof ModelFileError) return damaged(file, cause.message, cause)
    throw cause
  }
}

function parse(file: string, text: string): Contents {
  try {
    const contents = JSON.parse(text) as Partial<Contents> | null
    const { version, settings, progress } = contents ?? {}
    if (typeof version === 'number' && typeof settings === 'string' && typeof progress?.step === 'number')
      return contents as Contents
  } catch (cause) {
    return damaged(file, 'its description is not JSON', cause)
  }
  return damaged(file, 'its description is incomplete')
}

/** The first setting that differs, in words. */
function firstDifference(held: string, asked: string): string {
  const [before, now] = [JSON.parse(held) as Record<string, unknown>, JSON.parse(asked) as Record<string, unknown>]
  const name = Object.keys({ ...before, ...now }).find(
    (key) => JSON.stringify(before[key]) !== JSON.stringify(now[key]),
  )
  if (name === undefined) return 'settings in another order'
  return `${name} ${JSON.stringify(before[name])}, and ${JSON.stringify(now[name])} is asked for`
}

const sizeOf = (tensors: Readonly<Record<string, TensorToWrite>>): number =>
  Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)

function damaged(file: string, why: string, cause?: unknown): never {
  throw new TrainingError(
    'CHECKPOINT_DAMAGED',
    `${file}: ${why}`,
    'a checkpoint as training writes it',
    'Copy it again, or begin anew at another place; it is left as it is.',
    cause === undefined ? undefined : { cause },
  )
}
