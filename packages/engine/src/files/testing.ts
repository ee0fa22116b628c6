// Help for tests: made-up GGUF files, and the code of a typed error.
import { EngineError } from '../errors'

type Scalar = { readonly type: number; readonly value: number | bigint | string | boolean }

/** A tensor of a made-up file; `dims` innermost first, as the file has them. */
export interface MadeUpTensor {
  readonly name: string
  readonly dims: readonly (number | bigint)[]
  readonly type: number
  readonly offset: number | bigint
}

/** Collects little-endian values. */
class Bytes {
  private readonly parts: Uint8Array[] = []
  private put(size: number, write: (view: DataView) => void): this {
    const part = new Uint8Array(size)
    write(new DataView(part.buffer))
    this.parts.push(part)
    return this
  }
  u32 = (value: number) => this.put(4, (view) => view.setUint32(0, value, true))
  u64 = (value: number | bigint) => this.put(8, (view) => view.setBigUint64(0, BigInt(value), true))
  f32 = (value: number) => this.put(4, (view) => view.setFloat32(0, value, true))
  raw(bytes: Uint8Array): this {
    this.parts.push(bytes)
    return this
  }
  text(value: string): this {
    const bytes = new TextEncoder().encode(value)
    return this.u64(bytes.length).raw(bytes)
  }
  all(): Uint8Array {
    return Uint8Array.from(this.parts.flatMap((part) => [...part]))
  }
}

/** The bytes of a GGUF file with these parts, right or wrong. */
export function makeGguf({
  magic = 'GGUF',
  version = 3,
  tensorCount,
  entryCount,
  metadata = [],
  tensors = [],
  data = 0,
  alignment = 32,
}: {
  magic?: string
  version?: number
  tensorCount?: number | bigint
  entryCount?: number | bigint
  metadata?: readonly (readonly [key: string, scalar: Scalar])[]
  tensors?: readonly MadeUpTensor[]
  /** Bytes of tensor data. */
  data?: number
  alignment?: number
} = {}): Uint8Array {
  const bytes = new Bytes().raw(new TextEncoder().encode(magic)).u32(version)
  bytes.u64(tensorCount ?? tensors.length).u64(entryCount ?? metadata.length)
  for (const [key, { type, value }] of metadata) {
    bytes.text(key).u32(type)
    if (typeof value === 'string') bytes.text(value)
    else if (typeof value === 'bigint') bytes.u64(value)
    else if (type === 6) bytes.f32(Number(value))
    else bytes.u32(Number(value))
  }
  for (const { name, dims, type, offset } of tensors) {
    bytes.text(name).u32(dims.length)
    for (const dim of dims) bytes.u64(dim)
    bytes.u32(type).u64(offset)
  }
  const header = bytes.all()
  const start = Math.ceil(header.length / alignment) * alignment
  const file = new Uint8Array(data > 0 ? start + data : header.length)
  file.set(header)
  return file
}

/** The code of the typed error that this throws or rejects with; undefined when nothing went wrong; other errors pass through. */
export async function errorCode(run: () => unknown): Promise<string | undefined> {
  try {
    await run()
  } catch (error) {
    if (error instanceof EngineError) return error.code
    throw error
  }
  return undefined
}
