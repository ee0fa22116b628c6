// Help for tests: the toys of fixtures/families/llama-cpp.json as GGUF files.
import { toyValues } from './toys'

/** A toy as the fixture describes it. */
export interface GgufToy {
  readonly name: string
  readonly architecture: string
  /** Metadata without the name of the architecture in front; the type is Python's. */
  readonly keys: readonly (readonly [key: string, type: string, value: unknown])[]
  readonly tensors: Readonly<Record<string, readonly number[]>>
  readonly ropeFreqs?: readonly number[]
  readonly greedy?: readonly number[]
  /** llama.cpp does not load it. */
  readonly refused?: true
}

/** What a test may change: further metadata, and which tensors are written. */
export interface GgufToyChanges {
  /** Whole keys. */
  readonly keys?: readonly (readonly [key: string, type: string, value: unknown])[]
  readonly keep?: (tensor: string) => boolean
}

/** The bytes of the file. */
export function toyGguf({ architecture, keys, tensors, ropeFreqs }: GgufToy, changes: GgufToyChanges = {}): Uint8Array {
  const parts: Uint8Array[] = []
  const put = (size: number, write: (view: DataView) => void): void => {
    const part = new Uint8Array(size)
    write(new DataView(part.buffer))
    parts.push(part)
  }
  const u32 = (value: number) => put(4, (view) => view.setUint32(0, value, true))
  const u64 = (value: number) => put(8, (view) => view.setBigUint64(0, BigInt(value), true))
  const text = (value: string) => {
    const bytes = new TextEncoder().encode(value)
    u64(bytes.length)
    parts.push(bytes)
  }
  const entry = (key: string, type: string, value: unknown): void => {
    text(key)
    if (type === 'str') {
      u32(8)
      text(String(value))
    } else if (type === 'float') {
      u32(6)
      put(4, (view) => view.setFloat32(0, Number(value), true))
    } else if (type === 'int') {
      u32(4)
      u32(Number(value))
    } else {
      const list = value as readonly number[]
      u32(9)
      u32(5) // int32
      u64(list.length)
      for (const each of list) u32(each)
    }
  }
  const written = Object.entries(tensors).filter(([name]) => changes.keep?.(name) ?? true)
  const metadata = [
    ['general.architecture', 'str', architecture] as const,
    ...keys.map(([key, type, value]) => [`${architecture}.${key}`, type, value] as const),
    ...(changes.keys ?? []),
  ]
  parts.push(new TextEncoder().encode('GGUF'))
  u32(3)
  u64(written.length)
  u64(metadata.length)
  for (const [key, type, value] of metadata) entry(key, type, value)
  const data: Float32Array[] = []
  let offset = 0
  for (const [name, shape] of written) {
    const values = name === 'rope_freqs.weight' && ropeFreqs ? Float32Array.from(ropeFreqs) : toyValues(name, shape)
    text(name)
    u32(shape.length)
    for (const size of [...shape].reverse()) u64(size)
    u32(0) // f32
    u64(offset)
    data.push(values)
    offset += Math.ceil(values.byteLength / 32) * 32
  }
  const header = parts.reduce((sum, { length }) => sum + length, 0)
  const start = Math.ceil(header / 32) * 32
  const bytes = new Uint8Array(start + offset)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  at = start
  for (const values of data) {
    bytes.set(new Uint8Array(values.buffer), at)
    at += Math.ceil(values.byteLength / 32) * 32
  }
  return bytes
}
