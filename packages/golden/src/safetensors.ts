/** Reads safetensors files: 8 bytes header length, a JSON header, the tensors' bytes. */
import { readFile } from 'node:fs/promises'
import { floatFromHalf } from '@kvloom/kernels'
import type { NdArray } from './array'
import { GoldenError } from './errors'

interface Entry {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data_offsets: readonly [number, number]
}

/** All tensors of a file by name. 64-bit numbers become the nearest 32-bit ones. @throws GoldenError */
export async function readGoldenTensors(path: string): Promise<ReadonlyMap<string, NdArray>> {
  let file: Buffer
  try {
    file = await readFile(path)
  } catch (cause) {
    throw new GoldenError(`The file ${path} cannot be read.`, { cause })
  }
  const length = file.length < 8 ? -1 : Number(file.readBigUInt64LE(0))
  if (length < 0 || 8 + length > file.length) throw new GoldenError(`${path} is not a safetensors file.`)
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, Entry>
  const tensors = new Map<string, NdArray>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [from, to] = entry.data_offsets
    // Copies the bytes, so that typed arrays start on a boundary of their own.
    const bytes = Uint8Array.from(file.subarray(8 + length + from, 8 + length + to)).buffer
    tensors.set(name, { shape: entry.shape, data: decode(entry.dtype, bytes, `${path}:${name}`) })
  }
  return tensors
}

function decode(dtype: string, bytes: ArrayBuffer, where: string): NdArray['data'] {
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes)
    case 'F64':
      return Float32Array.from(new Float64Array(bytes))
    case 'F16':
      return Float32Array.from(new Uint16Array(bytes), (bits) => floatFromHalf(bits))
    case 'BF16':
      return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer)
    case 'I32':
      return new Int32Array(bytes)
    case 'U32':
      return new Int32Array(bytes)
    case 'I64':
      return Int32Array.from(new BigInt64Array(bytes), Number)
    case 'I16':
      return Int32Array.from(new Int16Array(bytes))
    case 'I8':
      return Int32Array.from(new Int8Array(bytes))
    case 'U8':
    case 'BOOL':
      return new Uint8Array(bytes)
    default:
      throw new GoldenError(`${where} has the dtype ${dtype}, which this reader does not know.`)
  }
}
