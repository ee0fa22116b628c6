// What calibration learned, as one safetensors file (Node): tensors named `<stage>/<name>`, everything else as JSON in the metadata
// entry "kvloom-artifacts", a SHA-256 over that JSON and all tensors in "sha256".
import fs from 'node:fs/promises'
import type { Artifact, FittedFor, HostTensor, Json } from '@kvloom/core'
import { ArtifactFileError, ModelFileError } from './errors'
import { type Described, openDescribed, writeDescribed } from './files/described'
import type { TensorToWrite } from './files/safetensors-write'

const version = 1
/** Name of the metadata entry. */
const key = 'kvloom-artifacts'

/** The metadata entry. */
interface Contents {
  readonly version: number
  readonly artifacts: readonly {
    readonly stage: string
    readonly fingerprint: string
    /** Files of an older kvloom lack it. */
    readonly fittedFor?: FittedFor
    readonly json: Json
  }[]
}

/**
 * Writes artifacts to one file; an older file stays as it was until the new one is whole.
 * @throws ArtifactFileError('BAD_ARTIFACT') for two artifacts of one stage or tensors that do not fit their shape, ('CANNOT_WRITE')
 */
export async function saveArtifacts(file: string, artifacts: readonly Artifact[]): Promise<void> {
  const stages = artifacts.map(({ stage }) => stage)
  const twin = stages.find((stage, i) => stages.indexOf(stage) !== i)
  if (twin !== undefined) refuse('BAD_ARTIFACT', `two artifacts of stage ${twin}`, 'one for each stage')
  const slashed = stages.find((stage) => stage.includes('/'))
  if (slashed !== undefined) refuse('BAD_ARTIFACT', `an artifact of stage ${slashed}`, 'stage names without "/"')
  const tensors: Record<string, TensorToWrite> = {}
  for (const { stage, tensors: own } of artifacts)
    for (const [name, { shape, values }] of Object.entries(own)) {
      if (shape.reduce((product, size) => product * size, 1) !== values.length)
        refuse(
          'BAD_ARTIFACT',
          `${stage}, ${name} of shape [${shape.join(', ')}] with ${values.length} values`,
          'one value for each place',
        )
      tensors[`${stage}/${name}`] = { shape, data: values }
    }
  const contents: Contents = {
    version,
    artifacts: artifacts.map(({ stage, fingerprint, fittedFor, json }) => ({
      stage,
      fingerprint,
      ...(fittedFor ? { fittedFor } : {}),
      json,
    })),
  }
  try {
    await writeDescribed(file, key, JSON.stringify(contents), tensors)
  } catch (cause) {
    refuse(
      'CANNOT_WRITE',
      `${file}, which cannot be written (${reasonOf(cause)})`,
      'a place with room',
      'Choose another place or free some space.',
      cause,
    )
  }
}

/**
 * Reads what `saveArtifacts` wrote. Whether they fit a compressor and a model is for `ready()` and `openCache()` to say.
 * @throws ArtifactFileError('CANNOT_READ'), ('DAMAGED'), ('OTHER_VERSION')
 */
export async function loadArtifacts(file: string): Promise<Artifact[]> {
  const { text, tensors, isWhole } = await readAll(file)
  if (text === undefined) return damaged(file, 'it holds no artifacts')
  const contents = parse(file, text)
  if (!(await isWhole())) return damaged(file, 'its SHA-256 differs')
  return contents.artifacts.map(({ stage, fingerprint, fittedFor, json }) => {
    const own = Object.entries(tensors).filter(([name]) => name.startsWith(`${stage}/`))
    return {
      stage,
      fingerprint,
      ...(fittedFor ? { fittedFor } : {}),
      json,
      tensors: Object.fromEntries(
        own.map(([name, { shape, data }]): [string, HostTensor] => [
          name.slice(stage.length + 1),
          { shape, values: data },
        ]),
      ),
    }
  })
}

type Tensors = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array | Int32Array }>>

async function readAll(file: string): Promise<Omit<Described, 'tensors'> & { readonly tensors: Tensors }> {
  let bytes: Uint8Array
  try {
    bytes = await fs.readFile(file)
  } catch (cause) {
    return refuse(
      'CANNOT_READ',
      `${file}, which cannot be read (${reasonOf(cause)})`,
      'a file of artifacts',
      'Check the path, or run kvloom calibrate.',
      cause,
    )
  }
  let read: Described
  try {
    read = await openDescribed(bytes, file, key)
  } catch (cause) {
    if (cause instanceof ModelFileError) return damaged(file, cause.message, cause)
    throw cause
  }
  const tensors: Record<string, Tensors[string]> = {}
  for (const [name, { shape, data, dtype }] of Object.entries(read.tensors)) {
    if (!(data instanceof Float32Array || data instanceof Int32Array) || !(dtype === 'F32' || dtype === 'I32'))
      return damaged(file, `${name} is of type ${dtype}`)
    tensors[name] = { shape, data }
  }
  return { ...read, tensors }
}

function parse(file: string, text: string): Contents {
  let given: unknown
  try {
    given = JSON.parse(text)
  } catch (cause) {
    return damaged(file, 'its description is not JSON', cause)
  }
  const contents = given as Partial<Contents> | null
  if (typeof contents?.version === 'number' && contents.version !== version)
    return refuse(
      'OTHER_VERSION',
      `${file}, artifacts of version ${contents.version}`,
      `version ${version}`,
      'Calibrate again: kvloom calibrate.',
    )
  const fits = (each: Contents['artifacts'][number] | null) =>
    typeof each?.stage === 'string' &&
    typeof each.fingerprint === 'string' &&
    each.json !== undefined &&
    (each.fittedFor === undefined || isFittedFor(each.fittedFor))
  if (contents?.version !== version || !Array.isArray(contents.artifacts) || !contents.artifacts.every(fits))
    return damaged(file, 'its description is incomplete')
  return contents as Contents
}

const isFittedFor = (given: unknown): given is FittedFor => {
  const { model, weights, stages } = (given ?? {}) as Partial<FittedFor>
  return (
    typeof model === 'string' &&
    typeof weights === 'string' &&
    Array.isArray(stages) &&
    stages.every(
      (s: Partial<FittedFor['stages'][number]> | null) => typeof s?.kind === 'string' && typeof s.id === 'string',
    )
  )
}

const reasonOf = (cause: unknown): string =>
  cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)

function damaged(file: string, why: string, cause?: unknown): never {
  return refuse(
    'DAMAGED',
    `${file}: ${why}`,
    'an artifact file as kvloom wrote it',
    'Copy it again, or calibrate again: kvloom calibrate.',
    cause,
  )
}

function refuse(
  code: ArtifactFileError['code'],
  given: string,
  allowed: string,
  cure = 'This is a mistake in the method that made it.',
  cause?: unknown,
): never {
  throw new ArtifactFileError(code, { given, allowed, cure, cause })
}
