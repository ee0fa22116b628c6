// One view of a model for the forward pass, whatever files it came in: configuration, tensors under kvloom's names, tokenizer data.
// Weights stay packed as they lie in the file; only the row order of GGUF's Llama queries and keys is changed.
import fs from 'node:fs/promises'
import { ModelFileError } from '../errors'
import { type ByteSource, diskFolder, type FileFolder, fileSource, readJson, readText } from '../files/byte-source'
import { dequantize } from '../files/dequantize'
import { type GgufFile, type GgufValue, openGguf } from '../files/gguf'
import { openSplitGguf, partOf, refusePart } from '../files/gguf-split'
import { openSafetensorsFolder } from '../files/safetensors'
import { type FileFormat, fileFormats, isFileFormat } from '../files/tensor-types'
import type { ModelConfig } from './config'
import { configFromGguf } from './config-from-gguf'
import { configFromHuggingFace } from './config-from-hugging-face'
import { endIdsOfGguf, endIdsOfHuggingFace } from './end-ids'
import { checkLayerCount, checkNoOthers, weightNames } from './families'
import { readIdentity, type SavedIdentity } from './kvloom-config'
import { locateModel } from './locate'
import { expectedShape, isBaseCheckpoint, tensorNames } from './tensor-names'

/** A weight as it lies in the file. */
export interface WeightTensor {
  readonly format: FileFormat
  /** Outermost first: `[out, in]` for a matrix. */
  readonly shape: readonly number[]
  /** Rows one after the other; a row of a packed format is whole blocks. `dequantize(format, data)` gives f32. */
  readonly data: Uint8Array
}

/** What the directory says about a weight, without reading it. */
export interface WeightInfo {
  readonly name: string
  readonly format: string
  readonly shape: readonly number[]
  readonly bytes: number
}

/** Where the tokenizer of a model is described; input of `createTokenizer`. */
export type TokenizerFiles =
  | { readonly kind: 'gguf'; readonly metadata: ReadonlyMap<string, GgufValue> }
  | {
      readonly kind: 'tokenizer.json'
      readonly tokenizer: Readonly<Record<string, unknown>>
      readonly config: Readonly<Record<string, unknown>>
    }

/** An opened model. Nothing needs closing. */
export interface ModelFiles {
  readonly kind: 'gguf' | 'safetensors'
  readonly config: ModelConfig
  /** Metadata of the file, without the tokenizer's lists. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** Every weight the forward pass may ask for and the file has, by canonical name (`tensor-names.ts` lists them). */
  readonly weights: ReadonlyMap<string, WeightInfo>
  /** Reads a weight by canonical name; throws `ModelFileError('TENSOR_MISSING')`, `('BAD_SHAPE')`, `('UNSUPPORTED_TENSOR_TYPE')`, `('FILE_TRUNCATED')`. */
  tensor(name: string): Promise<WeightTensor>
  /** What is wrong with the files and does not keep the model from running, a sentence each: end ids that are no tokens. */
  readonly warnings: readonly string[]
  /** What `saveModel` wrote down: the fingerprint of the model whose weights and configuration have this digest. */
  readonly saved?: SavedIdentity
  /** Description of the tokenizer; throws `ModelFileError('FILE_MISSING')` where the model has none. */
  tokenizer(): Promise<TokenizerFiles>
}

/** A .gguf file or a folder: by path or name (Node), or as sources (anywhere). */
export type ModelLocation = string | { readonly file: ByteSource } | { readonly folder: FileFolder }

/**
 * Opens a .gguf file, or a folder with config.json and safetensors. Checks every shape the forward pass relies on.
 * A name (`tiny`, those of `knownModels`, `owner/repo` on the Hub) is resolved, which may fetch it.
 */
export async function openModelFiles(location: ModelLocation): Promise<ModelFiles> {
  if (typeof location === 'object' && location !== null)
    return 'file' in location
      ? openGgufModel(location.file.name, refusePart(location.file.name, await openGguf(location.file)))
      : openFolderModel(location.folder)
  const { path: place } = await locateModel(location)
  const isFolder = await fs.stat(place).then(
    (stat) => stat.isDirectory(),
    () => false,
  )
  return isFolder ? openFolderModel(diskFolder(place)) : openGgufModel(place, await openGgufPath(place))
}

/** A GGUF file of one part, or all parts of a model from any one of them. */
async function openGgufPath(file: string): Promise<GgufFile> {
  const source = await fileSource(file)
  const gguf = await openGguf(source)
  return partOf(gguf) ? openSplitGguf(file, gguf) : gguf
}

/** What `rope_freqs.weight` holds; only Llama's forward pass divides its angles by it. */
const ropeDivisors = 'rope_freqs.weight'

async function openGgufModel(file: string, gguf: GgufFile): Promise<ModelFiles> {
  const divides = gguf.metadata.get('general.architecture') === 'llama'
  const factors = divides ? gguf.tensors.get(ropeDivisors) : undefined
  const ropeFactors = factors && [...dequantize(factors.type.name, await gguf.read(factors.name))]
  const config = configFromGguf(file, gguf, ropeFactors)
  checkLayerCount(file, 'block_count', config.layers, gguf.tensors.size)
  const names = tensorNames('gguf', config.layers)
  const weights = new Map<string, WeightInfo>()
  for (const [name, inFile] of names) {
    const entry = gguf.tensors.get(inFile)
    if (entry) weights.set(name, { name, format: entry.type.name, shape: entry.shape, bytes: entry.bytes })
  }
  const beside = divides ? [ropeDivisors] : []
  checkWeights(file, config, names, weights, [...gguf.tensors.keys()], beside)
  const metadata = new Map([...gguf.metadata].filter(([, value]) => !Array.isArray(value) || value.length <= 64))
  return {
    kind: 'gguf',
    config,
    metadata,
    weights,
    warnings: endIdsOfGguf(gguf.metadata, config.vocabSize).warnings,
    async tensor(name) {
      const { format, shape } = checkReadable(file, weights, name)
      const data = await gguf.read(names.get(name) ?? name)
      return { format, shape, data: config.architecture === 'llama' ? halfSplitRows(name, data, config) : data }
    },
    async tokenizer() {
      return { kind: 'gguf', metadata: gguf.metadata }
    },
  }
}

async function openFolderModel(folder: FileFolder): Promise<ModelFiles> {
  const configFile = await folder.open('config.json')
  if (!configFile) {
    throw new ModelFileError('FILE_MISSING', {
      given: `${folder.name} without config.json`,
      allowed: 'a .gguf file, or a folder with config.json and safetensors',
      cure: 'Check the path.',
    })
  }
  const optionalJson = async (file: string) => {
    const source = await folder.open(file)
    return source ? readJson(source) : undefined
  }
  const settings = await readJson(configFile)
  const safetensors = await openSafetensorsFolder(folder)
  const inFiles = new Set(safetensors.tensors.keys())
  const layers = settings['num_hidden_layers']
  if (typeof layers === 'number') checkLayerCount(configFile.name, 'num_hidden_layers', layers, inFiles.size)
  const generation = await optionalJson('generation_config.json')
  const config = configFromHuggingFace(configFile.name, settings, generation)
  const names = tensorNames(isBaseCheckpoint(inFiles) ? 'hugging-face-base' : 'hugging-face', config.layers)
  const weights = new Map<string, WeightInfo>()
  for (const [name, inFile] of names) {
    const entry = safetensors.tensors.get(inFile)
    if (entry) weights.set(name, { name, format: entry.dtype.toLowerCase(), shape: entry.shape, bytes: entry.bytes })
  }
  // Checkpoints of models with tied embeddings often hold the output matrix too.
  const beside = config.tiedEmbeddings ? ['lm_head.weight'] : []
  checkWeights(folder.name, config, names, weights, [...inFiles], beside)
  const saved = readIdentity(settings)
  return {
    kind: 'safetensors',
    config,
    metadata: safetensors.metadata,
    weights,
    warnings: endIdsOfHuggingFace(settings, generation, config.vocabSize).warnings,
    ...(saved ? { saved } : {}),
    async tensor(name) {
      const { format, shape } = checkReadable(folder.name, weights, name)
      return { format, shape, data: await safetensors.read(names.get(name) ?? name) }
    },
    async tokenizer() {
      const tokenizer = await optionalJson('tokenizer.json')
      if (!tokenizer) {
        throw new ModelFileError('FILE_MISSING', {
          given: `${folder.name} without tokenizer.json`,
          allowed: 'a folder with tokenizer.json',
          cure: 'Add the tokenizer of the model.',
        })
      }
      const tokenizerConfig = { ...(await optionalJson('tokenizer_config.json')) }
      const template = await folder.open('chat_template.jinja')
      if (template) tokenizerConfig['chat_template'] = await readText(template)
      return { kind: 'tokenizer.json', tokenizer, config: tokenizerConfig }
    },
  }
}

/** GPTQ and AWQ write integers where a weight should be; the oldest files of this kind do not say so in config.json. */
function refusePacked(file: string, inFile: readonly string[]): void {
  const packed = inFile.find((name) => name.endsWith('.qweight'))
  if (packed === undefined) return
  throw new ModelFileError('UNSUPPORTED_TENSOR_TYPE', {
    given: `${file}, weights packed by GPTQ or AWQ (tensor "${packed}")`,
    allowed: 'weights in f32, f16 or bf16, or a GGUF file',
    cure: 'Use the original model, or a GGUF file of it.',
  })
}

/** Is every weight there, of its shape, and nothing that the forward pass would pass over? @throws ModelFileError naming the tensor */
function checkWeights(
  file: string,
  config: ModelConfig,
  names: ReadonlyMap<string, string>,
  weights: Map<string, WeightInfo>,
  inFile: readonly string[],
  beside: readonly string[],
): void {
  refusePacked(file, inFile)
  const needed = new Set(weightNames(config))
  for (const name of needed) if (!weights.has(name)) missing(file, name, names.get(name))
  for (const name of weights.keys()) if (!needed.has(name)) weights.delete(name)
  checkNoOthers(file, config, inFile, new Set([...weights.keys()].map((name) => names.get(name) ?? name)), beside)
  for (const { name, shape } of weights.values()) {
    const expected = expectedShape(name, config)
    if (!expected || (shape.length === expected.length && shape.every((size, axis) => size === expected[axis])))
      continue
    throw new ModelFileError('BAD_SHAPE', {
      given: `${file}, ${name} of shape [${shape.join(', ')}]`,
      allowed: `[${expected.join(', ')}] by the model's own configuration`,
      cure: 'The file is damaged or of another model; fetch it again.',
    })
  }
}

function checkReadable(
  file: string,
  weights: ReadonlyMap<string, WeightInfo>,
  name: string,
): WeightInfo & { format: FileFormat } {
  const info = weights.get(name) ?? missing(file, name)
  if (isFileFormat(info.format)) return { ...info, format: info.format }
  throw new ModelFileError('UNSUPPORTED_TENSOR_TYPE', {
    given: `${file}, ${name} of type ${info.format}`,
    allowed: fileFormats.join(', '),
    cure: 'Use a file of another quantization of this model.',
  })
}

function missing(file: string, name: string, inFile?: string): never {
  throw new ModelFileError('TENSOR_MISSING', {
    given: `${file} without ${name}${inFile === undefined ? '' : ` (tensor "${inFile}")`}`,
    allowed: 'a file with every weight of its architecture',
    cure:
      name === 'output'
        ? 'If the output matrix is the embedding, say "tie_word_embeddings": true in config.json; else the file is incomplete, fetch it again.'
        : 'The file is incomplete, or of another architecture than it says; fetch it again.',
  })
}

/**
 * llama.cpp stores the query and key rows of Llama models for interleaved RoPE: row 2i + h of a head is row h · dim / 2 + i of the
 * model. This puts them back. Rows move whole, so packed formats need no unpacking; a bias is a row of one value.
 */
function halfSplitRows(name: string, data: Uint8Array, config: ModelConfig): Uint8Array {
  const part = /^layers\.\d+\.attention\.(query|key)(\.bias)?$/.exec(name)?.[1]
  if (!part) return data
  const heads = part === 'query' ? config.queryHeads : config.kvHeads
  const half = config.keyDim / 2
  const rowBytes = data.byteLength / (heads * config.keyDim)
  const out = new Uint8Array(data.byteLength)
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < config.keyDim; row++) {
      const from = head * config.keyDim + 2 * (row % half) + Math.floor(row / half)
      out.set(data.subarray(from * rowBytes, (from + 1) * rowBytes), (head * config.keyDim + row) * rowBytes)
    }
  }
  return out
}
