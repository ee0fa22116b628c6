// Writes a model as a folder that `loadModel` reads (Node).
import fs from 'node:fs/promises'
import path from 'node:path'
import { zeros } from '@tensorflow/tfjs-core'
import { EngineError, ModelFileError } from './errors'
import { streamSafetensors, type TensorPlan } from './files/safetensors-write'
import { temporaryBeside, writeWhole } from './files/write-whole'
import type { Model } from './model'
import { configFromHuggingFace } from './models/config-from-hugging-face'
import { weightNames } from './models/families'
import { settingsOf } from './models/kvloom-config'
import { expectedShape, tensorNames } from './models/tensor-names'
import { Fingerprint } from './shape'
import { type TokenizerJson, tokenizerJson } from './tokenizer/to-json'
import { toHalves } from './weights'

/** Options of `saveModel`. */
export interface SaveModelOptions {
  /** Aborts between two weights with the signal's reason; nothing is left behind. */
  readonly signal?: AbortSignal
}

/**
 * Writes config.json, model.safetensors and, where the model has a tokenizer, tokenizer.json and tokenizer_config.json. Loaded again it is the
 * same model: same fingerprint, and the same logits bit for bit where its weights are held as f32 or f16 (packed weights become
 * f32 of the same values). A model that Hugging Face's config cannot describe gets model_type `kvloom-...`, which other tools refuse.
 * @param folder made if absent; the folder appears whole or not at all
 * @throws ModelFileError('FILE_EXISTS') when the folder holds something already, ('CANNOT_WRITE'); TokenizerError when its tokenizer is not understood
 */
export async function saveModel(model: Model, folder: string, options: SaveModelOptions = {}): Promise<void> {
  const inside = await fs
    .readdir(folder)
    .catch((error: unknown) => (codeOf(error) === 'ENOENT' ? [] : refuse(folder, error)))
  if (inside.length > 0)
    throw new ModelFileError('FILE_EXISTS', {
      given: `${folder}, which holds ${inside[0]}${inside.length > 1 ? ` and ${inside.length - 1} more` : ''}`,
      allowed: 'a new folder or an empty one',
      cure: 'Choose another place or empty it.',
    })
  const temporary = await temporaryBeside(folder)
  try {
    await fs.mkdir(temporary, { recursive: true })
    const digest = await writeWeights(model, path.join(temporary, 'model.safetensors'), options.signal)
    await writeJson(
      temporary,
      'config.json',
      settingsOf(model.config, { digest, fingerprint: model.shape.fingerprint }),
    )
    const tokenizer = await tokenizerOf(model)
    if (tokenizer) {
      await writeJson(temporary, 'tokenizer.json', tokenizer.json)
      await writeJson(temporary, 'tokenizer_config.json', tokenizer.config)
    }
    await fs.rmdir(folder).catch(() => {}) // an empty one; where there is none, or something came meanwhile, rename decides
    await fs.rename(temporary, folder)
  } catch (error) {
    await fs.rm(temporary, { recursive: true, force: true })
    throw codeOf(error) && !(error instanceof EngineError) ? refuse(folder, error) : error
  }
}

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined)

const refuse = (folder: string, cause: unknown): never => {
  throw new ModelFileError('CANNOT_WRITE', {
    given: `${folder}, which cannot be written (${String(codeOf(cause))})`,
    allowed: 'a new folder or an empty one, on a disk with room for the weights',
    cure: 'Choose another place or free some space.',
    cause,
  })
}

/**
 * Writes every weight the forward pass holds: f16 where it is held so, else f32. Returns the digest that loading will find.
 * config.json has one word for all biases of attention and one for those of the MLP: a model that has only some of them (a GGUF
 * file may) gets zeros for the others.
 */
async function writeWeights(model: Model, file: string, signal: AbortSignal | undefined): Promise<string> {
  const { config, held } = model
  const inFile = tensorNames('hugging-face', config.layers)
  const canonical = new Map([...inFile].map(([name, written]) => [written, name]))
  const written = configFromHuggingFace('config.json', settingsOf(config))
  const own = new Set(held.map(({ name }) => name))
  const silent = weightNames(written).filter((name) => !own.has(name))
  const plans = [...held, ...silent.map((name) => ({ name, held: 'f32' }))].map(
    (each): TensorPlan => ({
      name: inFile.get(each.name) ?? each.name,
      dtype: each.held === 'f16' ? 'F16' : 'F32',
      shape: expectedShape(each.name, config) ?? [],
    }),
  )
  const fingerprint = new Fingerprint()
  const read = async (inTheFile: string): Promise<Float32Array | Uint16Array> => {
    signal?.throwIfAborted()
    const name = canonical.get(inTheFile) ?? inTheFile
    const tensor = own.has(name) ? await model.weights.get(name) : zeros([...(expectedShape(name, config) ?? [])])
    const values = (await tensor.data()) as Float32Array
    tensor.dispose()
    const half = plans.some((each) => each.name === inTheFile && each.dtype === 'F16')
    const bytes = half ? toHalves(values) : new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    await fingerprint.add(name, half ? 'f16' : 'f32', tensor.shape, bytes)
    return half ? new Uint16Array(bytes.buffer) : values
  }
  await writeWhole(file, streamSafetensors(plans, read))
  return fingerprint.digest(written)
}

/** The tokenizer's two files; null where the model came without one. */
async function tokenizerOf({ files }: Model): Promise<TokenizerJson | null> {
  try {
    const found = await files.tokenizer()
    return found.kind === 'gguf' && !found.metadata.has('tokenizer.ggml.model') ? null : tokenizerJson(found)
  } catch (error) {
    if (error instanceof ModelFileError && error.code === 'FILE_MISSING') return null
    throw error
  }
}

const writeJson = (folder: string, file: string, value: object): Promise<void> =>
  writeWhole(path.join(folder, file), [new TextEncoder().encode(`${JSON.stringify(value, null, 1)}\n`)])
