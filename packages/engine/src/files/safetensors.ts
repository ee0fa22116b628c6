// safetensors files, single or in shards, read by range. Format: https://github.com/huggingface/safetensors (an
// 8-byte header length, a JSON header, then the data without holes). Depends on nothing but the errors and byte sources beside it.
import { refuseFile as fail, ModelFileError } from '../errors'
import { type ByteSource, type FileFolder, fileSource, readJson } from './byte-source'
import { dequantize } from './dequantize'

/** Bytes of a value of each dtype. */
export const dtypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const

/** A dtype as the file names it. */
export type SafetensorsDtype = keyof typeof dtypeBytes

/** One entry of the header. */
export interface SafetensorsEntry {
  readonly name: string
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  /** Byte offset from the start of its file. */
  readonly offset: number
  readonly bytes: number
}

/** A parsed file, or all shards of one model. */
export interface SafetensorsFile {
  /** The strings of `__metadata__`; of the first shard when there are several. */
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
  /** The raw data of a tensor; throws `ModelFileError('TENSOR_MISSING')` for a name the file does not have. */
  read(name: string): Promise<Uint8Array>
}

/** The typed arrays that `values` gives and `writeSafetensors` takes. */
export type TensorValues =
  | Float32Array
  | Float64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array
  | BigInt64Array
  | BigUint64Array

const maximumHeaderBytes = 100_000_000 // the limit of the reference implementation
/** Reads and checks the header of one file. Every damage is a `ModelFileError`. */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  if (source.size < 8)
    fail(
      'FILE_TRUNCATED',
      `${source.name} of ${source.size} bytes`,
      'at least 8 bytes',
      'The file is cut short; fetch it again.',
    )
  const lengthBytes = await source.read(0, 8)
  const length = new DataView(lengthBytes.buffer, lengthBytes.byteOffset).getBigUint64(0, true)
  if (length > BigInt(maximumHeaderBytes))
    fail(
      'ABSURD_COUNT',
      `${source.name}, a header of ${length} bytes`,
      `at most ${maximumHeaderBytes}`,
      'This is no safetensors file, or it is damaged.',
    )
  if (8 + Number(length) > source.size)
    fail(
      'FILE_TRUNCATED',
      `${source.name}, a header of ${length} bytes in a file of ${source.size}`,
      'a whole header',
      'The file is cut short; fetch it again.',
    )
  const header = parseHeader(source, await source.read(8, Number(length)))
  const metadata = readMetadata(source, header['__metadata__'])
  delete header['__metadata__']
  const dataStart = 8 + Number(length)
  const entries = Object.entries(header).map(([name, value]) => readEntry(source, name, value, dataStart))
  checkCoverage(source, entries, dataStart)
  const tensors = new Map(entries.map((entry) => [entry.name, entry]))
  return {
    metadata,
    tensors,
    async read(name) {
      const entry = tensors.get(name)
      return entry ? source.read(entry.offset, entry.bytes) : missing(name, tensors.size, source.name)
    },
  }
}

/** Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, of a folder. */
export async function openSafetensorsFolder(folder: FileFolder): Promise<SafetensorsFile> {
  const single = await folder.open('model.safetensors')
  if (single) return openSafetensors(single)
  const indexFile = await folder.open('model.safetensors.index.json')
  if (!indexFile)
    return fail(
      'FILE_MISSING',
      `${folder.name}, without model.safetensors or its index`,
      'a folder with safetensors weights',
      'Add the weights, or give a .gguf file.',
    )
  const weightMap = (await readJson(indexFile))['weight_map']
  if (typeof weightMap !== 'object' || weightMap === null)
    return fail('BAD_HEADER', `${indexFile.name}, without weight_map`, 'a map from tensor names to files')
  const shards = new Map<string, SafetensorsFile>()
  const owners = new Map<string, SafetensorsFile>()
  const tensors = new Map<string, SafetensorsEntry>()
  for (const [name, file] of Object.entries(weightMap)) {
    if (typeof file !== 'string' || !/^[^/\\:\p{Cc}]+\.safetensors$/u.test(file))
      return fail(
        'BAD_HEADER',
        `${indexFile.name}, tensor "${name}" in ${JSON.stringify(file)}`,
        'plain names of .safetensors files',
      )
    let shard = shards.get(file)
    if (!shard) {
      const source = await folder.open(file)
      if (!source)
        return fail(
          'FILE_MISSING',
          `${folder.name} without ${file}`,
          'every shard the index names',
          'Fetch the missing shard.',
        )
      shard = await openSafetensors(source)
      shards.set(file, shard)
    }
    const entry =
      shard.tensors.get(name) ??
      fail(
        'TENSOR_MISSING',
        `${file} without tensor "${name}"`,
        'what the index says',
        'Index and shards disagree; fetch the folder again.',
      )
    tensors.set(name, entry)
    owners.set(name, shard)
  }
  const [first] = shards.values()
  return {
    metadata: first?.metadata ?? new Map(),
    tensors,
    async read(name) {
      return owners.get(name)?.read(name) ?? missing(name, tensors.size, folder.name)
    },
  }
}

const missing = (name: string, count: number, file: string): never =>
  fail('TENSOR_MISSING', `tensor "${name}"`, `one of the ${count} tensors of ${file}`, 'Check the name.')

function parseHeader(source: ByteSource, bytes: Uint8Array): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new ModelFileError('BAD_HEADER', {
      given: `${source.name}, whose header is not JSON`,
      allowed: 'a JSON object',
      cure: 'The file is damaged; fetch it again.',
      cause,
    })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return fail('BAD_HEADER', `${source.name}, whose header is no object`, 'a JSON object')
  return value as Record<string, unknown>
}

function readMetadata(source: ByteSource, value: unknown): Map<string, string> {
  if (value === undefined) return new Map()
  if (typeof value !== 'object' || value === null)
    return fail('BAD_METADATA', `${source.name}, __metadata__ of type ${typeof value}`, 'an object of strings')
  const entries = Object.entries(value).map(([key, text]): [string, string] =>
    typeof text === 'string'
      ? [key, text]
      : fail('BAD_METADATA', `${source.name}, __metadata__ "${key}" of type ${typeof text}`, 'strings'),
  )
  return new Map(entries)
}

const isSize = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0

function readEntry(source: ByteSource, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  const {
    dtype,
    shape,
    data_offsets: range,
  } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const where = `${source.name}, tensor "${name}"`
  if (typeof dtype !== 'string' || !(dtype in dtypeBytes))
    return fail(
      'UNKNOWN_TENSOR_TYPE',
      `${where} of dtype ${JSON.stringify(dtype)}`,
      Object.keys(dtypeBytes).join(', '),
      'Convert the file to f32, f16 or bf16.',
    )
  if (!Array.isArray(shape) || !shape.every(isSize))
    return fail('BAD_SHAPE', `${where} of shape ${JSON.stringify(shape)}`, 'an array of sizes')
  const [begin, end] = Array.isArray(range) ? (range as unknown[]) : []
  if (!isSize(begin) || !isSize(end) || begin > end)
    return fail('BAD_OFFSET', `${where} at ${JSON.stringify(range)}`, 'a range [begin, end]')
  const bytes = shape.reduce((product, size) => product * size, 1) * dtypeBytes[dtype as SafetensorsDtype]
  if (bytes !== end - begin)
    fail('BAD_SHAPE', `${where} of ${dtype} [${shape.join(', ')}] in ${end - begin} bytes`, `${bytes} bytes`)
  if (dataStart + end > source.size)
    fail(
      'FILE_TRUNCATED',
      `${where} ends at byte ${dataStart + end} of a file of ${source.size}`,
      'data inside the file',
      'The file is cut short; fetch it again.',
    )
  return { name, dtype: dtype as SafetensorsDtype, shape, offset: dataStart + begin, bytes }
}

/** The format allows neither overlaps nor holes nor bytes after the last tensor. */
function checkCoverage(source: ByteSource, entries: SafetensorsEntry[], dataStart: number): void {
  let end = dataStart
  for (const entry of [...entries].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (entry.offset !== end)
      fail(
        'BAD_OFFSET',
        `${source.name}, tensor "${entry.name}" at byte ${entry.offset}, where ${end} was expected`,
        'tensors one after the other',
      )
    end += entry.bytes
  }
  if (end !== source.size)
    fail(
      'BAD_OFFSET',
      `${source.name}, ${source.size - end} bytes after the last tensor`,
      'nothing after the last tensor',
    )
}

/** Raw data of a tensor as numbers: f16 and bf16 become f32, everything else keeps its type; always a fresh array. */
export function tensorValues(dtype: SafetensorsDtype, data: Uint8Array): TensorValues {
  const copy = () => new Uint8Array(data) // not slice(): Node's Buffer gives a view there
  const buffer = () => copy().buffer
  switch (dtype) {
    case 'F16':
      return dequantize('f16', data)
    case 'BF16':
      return dequantize('bf16', data)
    case 'F32':
      return new Float32Array(buffer())
    case 'F64':
      return new Float64Array(buffer())
    case 'I64':
      return new BigInt64Array(buffer())
    case 'U64':
      return new BigUint64Array(buffer())
    case 'I32':
      return new Int32Array(buffer())
    case 'U32':
      return new Uint32Array(buffer())
    case 'I16':
      return new Int16Array(buffer())
    case 'U16':
      return new Uint16Array(buffer())
    case 'I8':
      return new Int8Array(buffer())
    case 'U8':
    case 'BOOL':
      return copy()
    default:
      return fail(
        'UNSUPPORTED_TENSOR_TYPE',
        `tensor data of ${dtype}`,
        'every dtype but the 8-bit floats',
        'Convert the file to f32, f16 or bf16.',
      )
  }
}

/** A tensor with its numbers. */
export interface LoadedTensor {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  readonly data: TensorValues
}

/** Every tensor of a file (Node path or source), as numbers: for fixtures and golden data, not for models. */
export async function readSafetensors(file: string | ByteSource): Promise<Map<string, LoadedTensor>> {
  const opened = await openSafetensors(typeof file === 'string' ? await fileSource(file) : file)
  const loaded = new Map<string, LoadedTensor>()
  for (const { name, dtype, shape } of opened.tensors.values())
    loaded.set(name, { dtype, shape, data: tensorValues(dtype, await opened.read(name)) })
  return loaded
}
