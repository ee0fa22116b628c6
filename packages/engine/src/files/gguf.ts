// GGUF files: header, metadata and tensor directory are parsed and checked once; tensor data is read by range when asked for.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
// An own parser because @huggingface/gguf 0.4.6 pads its buffer with zeros and so accepts files cut anywhere, even after ten bytes.
import { refuseFile as fail } from '../errors'
import type { ByteSource } from './byte-source'
import { Cursor, type GgufValue, NeedMore } from './gguf-cursor'
import { type GgmlType, ggmlTypes } from './tensor-types'

export type { GgufValue } from './gguf-cursor'

/** One entry of the tensor directory. */
export interface GgufTensor {
  readonly name: string
  readonly type: GgmlType
  /** Outermost first: a matrix is `[out, in]` (the file lists the innermost first). */
  readonly shape: readonly number[]
  /** Byte offset from the start of the file. */
  readonly offset: number
  /** Bytes of the data. */
  readonly bytes: number
}

/** A parsed GGUF file. */
export interface GgufFile {
  readonly version: number
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
  /** The packed data of a tensor; throws `ModelFileError('TENSOR_MISSING')` for a name the file does not have. */
  read(name: string): Promise<Uint8Array>
}

const firstHeaderBytes = 4 << 20
const maximumDimensions = 4

/** Reads the header of a GGUF file. Every damage is a `ModelFileError`. */
export async function openGguf(source: ByteSource): Promise<GgufFile> {
  let length = Math.min(firstHeaderBytes, source.size)
  for (;;) {
    const bytes = await source.read(0, length)
    try {
      return parse(source, bytes)
    } catch (error) {
      if (!(error instanceof NeedMore)) throw error
      length = Math.min(source.size, Math.max(length * 2, error.bytes))
    }
  }
}

function parse(source: ByteSource, bytes: Uint8Array): GgufFile {
  const cursor = new Cursor(source, bytes)
  cursor.take(4, 'the magic number')
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== 'GGUF') {
    fail(
      'WRONG_MAGIC',
      `${source.name}, which does not begin with "GGUF"`,
      'a GGUF file',
      'Give a .gguf file, or a folder with config.json and safetensors.',
    )
  }
  const version = cursor.u32('the version')
  if (version !== 2 && version !== 3) {
    const bigEndian = version === 0x0200_0000 || version === 0x0300_0000
    fail(
      'UNSUPPORTED_VERSION',
      `${source.name}, GGUF ${bigEndian ? 'in big-endian order' : `version ${version}`}`,
      'GGUF version 2 or 3, little endian',
      'Convert the model again with a recent converter.',
    )
  }
  const tensorCount = cursor.count('tensors', 24)
  const entryCount = cursor.count('metadata entries', 13)
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < entryCount; i++) {
    const key = cursor.string('a metadata key')
    if (metadata.has(key)) fail('BAD_METADATA', `${source.name}, metadata key "${key}" twice`, 'each key once')
    metadata.set(key, cursor.value(cursor.u32(`the type of "${key}"`), key, 0))
  }
  const alignment = metadata.get('general.alignment') ?? 32
  if (
    typeof alignment !== 'number' ||
    alignment < 1 ||
    alignment > 1 << 20 ||
    !Number.isInteger(Math.log2(alignment))
  ) {
    return fail('BAD_METADATA', `${source.name}, general.alignment ${String(alignment)}`, 'a power of two up to 2^20')
  }
  const entries = Array.from({ length: tensorCount }, () => directoryEntry(cursor, source))
  const dataStart = Math.ceil(cursor.at / alignment) * alignment
  const tensors = new Map<string, GgufTensor>()
  for (const { name, type, shape, offset, bytes: size } of entries) {
    if (offset % alignment !== 0)
      fail('BAD_OFFSET', `${source.name}, tensor "${name}" at offset ${offset}`, `multiples of ${alignment}`)
    if (dataStart + offset + size > source.size) {
      fail(
        'FILE_TRUNCATED',
        `${source.name}, tensor "${name}" ends at byte ${dataStart + offset + size} of a file of ${source.size}`,
        'tensor data inside the file',
        'The file is cut short; fetch it again.',
      )
    }
    if (tensors.has(name)) fail('DUPLICATE_TENSOR', `${source.name}, tensor "${name}" twice`, 'each tensor once')
    tensors.set(name, { name, type, shape, offset: dataStart + offset, bytes: size })
  }
  checkOverlaps(source, [...tensors.values()])
  return {
    version,
    metadata,
    tensors,
    async read(name) {
      const tensor = tensors.get(name)
      if (!tensor)
        return fail(
          'TENSOR_MISSING',
          `tensor "${name}"`,
          `one of the ${tensors.size} tensors of ${source.name}`,
          'Check the name.',
        )
      return source.read(tensor.offset, tensor.bytes)
    },
  }
}

function directoryEntry(cursor: Cursor, source: ByteSource): GgufTensor {
  const name = cursor.string('a tensor name')
  const dimensions = cursor.u32(`the rank of "${name}"`)
  if (dimensions < 1 || dimensions > maximumDimensions)
    fail('BAD_SHAPE', `${source.name}, tensor "${name}" of rank ${dimensions}`, `rank 1 to ${maximumDimensions}`)
  const shape = Array.from({ length: dimensions }, () => cursor.size(`the shape of "${name}"`)).reverse()
  const id = cursor.u32(`the type of "${name}"`)
  const type = ggmlTypes.get(id)
  if (!type) {
    const known = [...ggmlTypes.values()].map((each) => each.name).join(', ')
    return fail(
      'UNKNOWN_TENSOR_TYPE',
      `${source.name}, tensor "${name}" of type number ${id}`,
      known,
      'Use a file of another quantization of this model.',
    )
  }
  const values = shape.reduce((product, size) => product * size, 1)
  const inner = shape[shape.length - 1] ?? 0
  if (values < 1 || !Number.isSafeInteger(values * type.blockBytes))
    fail(
      'BAD_SHAPE',
      `${source.name}, tensor "${name}" of shape [${shape.join(', ')}]`,
      'sizes of at least 1 that fit in a file',
    )
  if (inner % type.blockSize !== 0) {
    fail(
      'BAD_SHAPE',
      `${source.name}, tensor "${name}" of shape [${shape.join(', ')}] in ${type.name}`,
      `rows of a multiple of ${type.blockSize} values`,
    )
  }
  return {
    name,
    type,
    shape,
    offset: cursor.size(`the offset of "${name}"`),
    bytes: (values / type.blockSize) * type.blockBytes,
  }
}

function checkOverlaps(source: ByteSource, tensors: GgufTensor[]): void {
  tensors.sort((a, b) => a.offset - b.offset)
  let end = 0
  let last = ''
  for (const tensor of tensors) {
    if (tensor.offset < end)
      fail(
        'BAD_OFFSET',
        `${source.name}, tensors "${last}" and "${tensor.name}" over the same bytes`,
        'tensors that do not overlap',
      )
    end = tensor.offset + tensor.bytes
    last = tensor.name
  }
}
