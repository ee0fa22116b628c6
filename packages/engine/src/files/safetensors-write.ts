// Writes safetensors files: the counterpart of safetensors.ts.
import { refuseFile as fail } from '../errors'
import { dtypeBytes, type SafetensorsDtype, type TensorValues } from './safetensors'
import { writeWhole } from './write-whole'

/** A tensor to write. `dtype` is needed only where the array does not say it: F16 and BF16 as bits in a Uint16Array, BOOL in a Uint8Array. */
export interface TensorToWrite {
  readonly shape: readonly number[]
  readonly data: TensorValues
  readonly dtype?: SafetensorsDtype
}

function dtypeOf(data: TensorValues): SafetensorsDtype {
  if (data instanceof Float32Array) return 'F32'
  if (data instanceof Float64Array) return 'F64'
  if (data instanceof Int32Array) return 'I32'
  if (data instanceof Uint32Array) return 'U32'
  if (data instanceof Int16Array) return 'I16'
  if (data instanceof Uint16Array) return 'U16'
  if (data instanceof Int8Array) return 'I8'
  if (data instanceof Uint8Array) return 'U8'
  return data instanceof BigInt64Array ? 'I64' : 'U64'
}

/** The bytes of a safetensors file; same input, same bytes. Throws `ModelFileError('bad-shape')` where shape and data disagree. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const entries = Object.entries(tensors).map(([name, { shape, data, dtype = dtypeOf(data) }]) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const expected = shape.reduce((product, size) => product * size, 1) * dtypeBytes[dtype]
    if (bytes.byteLength !== expected)
      fail(
        'bad-shape',
        `tensor "${name}" of ${dtype} [${shape.join(', ')}] with ${bytes.byteLength} bytes`,
        `${expected} bytes`,
        'Give data that fits the shape.',
      )
    return { name, dtype, shape, bytes }
  })
  // Widest first keeps every tensor aligned to its own width; names make the order certain.
  entries.sort((a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype] || (a.name < b.name ? -1 : 1))
  const header: Record<string, unknown> = Object.keys(metadata).length ? { __metadata__: metadata } : {}
  let end = 0
  for (const { name, dtype, shape, bytes } of entries) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.byteLength] }
    end += bytes.byteLength
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const headerBytes = Math.ceil(json.byteLength / 8) * 8
  const out = new Uint8Array(8 + headerBytes + end)
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true)
  out.fill(0x20, 8, 8 + headerBytes)
  out.set(json, 8)
  let at = 8 + headerBytes
  for (const { bytes } of entries) {
    out.set(bytes, at)
    at += bytes.byteLength
  }
  return out
}

/** Writes a safetensors file atomically: a reader sees the old file or the new one, never half of it (Node). */
export async function writeSafetensors(
  file: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeWhole(file, [encodeSafetensors(tensors, metadata)])
}
