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

/** What is known of a tensor before its data. */
export interface TensorPlan {
  readonly name: string
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
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

/** The bytes of a safetensors file; same input, same bytes. Throws `ModelFileError('BAD_SHAPE')` where shape and data disagree. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { header, order } = plan(
    Object.entries(tensors).map(([name, { shape, data, dtype = dtypeOf(data) }]) => ({ name, shape, dtype })),
    metadata,
  )
  const parts = order.map((each) => bytesOf(each, tensors[each.name]?.data))
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, header.byteLength))
  let at = 0
  for (const part of [header, ...parts]) {
    out.set(part, at)
    at += part.byteLength
  }
  return out
}

/**
 * The same bytes piece by piece, for files too large for memory: `read` is asked for each tensor once, when its turn comes.
 * Throws `ModelFileError('BAD_SHAPE')` where shape and data disagree.
 */
export async function* streamSafetensors(
  tensors: readonly TensorPlan[],
  read: (name: string) => Promise<TensorValues>,
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array, void, void> {
  const { header, order } = plan(tensors, metadata)
  yield header
  for (const each of order) yield bytesOf(each, await read(each.name))
}

/** Writes a safetensors file atomically: a reader sees the old file or the new one, never half of it (Node). */
export async function writeSafetensors(
  file: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeWhole(file, [encodeSafetensors(tensors, metadata)])
}

const sizeOf = ({ shape, dtype }: TensorPlan): number =>
  shape.reduce((product, size) => product * size, 1) * dtypeBytes[dtype]

/** Length and header, padded; and the tensors in the order of their data. */
function plan(
  tensors: readonly TensorPlan[],
  metadata: Readonly<Record<string, string>>,
): { readonly header: Uint8Array; readonly order: readonly TensorPlan[] } {
  // Widest first keeps every tensor aligned to its own width; names make the order certain.
  const order = [...tensors].sort((a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype] || (a.name < b.name ? -1 : 1))
  const entries: Record<string, unknown> = Object.keys(metadata).length ? { __metadata__: metadata } : {}
  let end = 0
  for (const each of order) {
    const begin = end
    end += sizeOf(each)
    entries[each.name] = { dtype: each.dtype, shape: each.shape, data_offsets: [begin, end] }
  }
  const json = new TextEncoder().encode(JSON.stringify(entries))
  const jsonBytes = Math.ceil(json.byteLength / 8) * 8
  const header = new Uint8Array(8 + jsonBytes)
  new DataView(header.buffer).setBigUint64(0, BigInt(jsonBytes), true)
  header.fill(0x20, 8)
  header.set(json, 8)
  return { header, order }
}

function bytesOf(tensor: TensorPlan, data: TensorValues | undefined): Uint8Array {
  const { name, dtype, shape } = tensor
  const bytes = data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array()
  const expected = sizeOf(tensor)
  if (bytes.byteLength !== expected)
    fail(
      'BAD_SHAPE',
      `tensor "${name}" of ${dtype} [${shape.join(', ')}] with ${bytes.byteLength} bytes`,
      `${expected} bytes`,
      'Give data that fits the shape.',
    )
  return bytes
}
