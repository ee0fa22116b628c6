// Safetensors files with a description: a text in a metadata entry of its own, and in "sha256" a digest of it and of every tensor by name.
import { bytesSource } from './byte-source'
import { openSafetensors, type SafetensorsDtype, tensorValues } from './safetensors'
import { encodeSafetensors, type TensorToWrite } from './safetensors-write'
import { writeWhole } from './write-whole'

/** What such a file holds. */
export interface Described {
  /** The description; undefined where the file has none under the name. */
  readonly text: string | undefined
  readonly tensors: Readonly<Record<string, TensorToWrite & { readonly dtype: SafetensorsDtype }>>
  /** Whether the digest is that of description and tensors. */
  isWhole(): Promise<boolean>
}

/** Writes a file whole or not at all. @param key name of the description. @throws what the file system throws */
export async function writeDescribed(
  file: string,
  key: string,
  text: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
): Promise<void> {
  await writeWhole(file, [encodeSafetensors(tensors, { [key]: text, sha256: await digestOf(key, text, tensors) })])
}

/** Reads such a file. @param file its name, for messages. @throws ModelFileError for bytes that are no safetensors file */
export async function openDescribed(bytes: Uint8Array, file: string, key: string): Promise<Described> {
  const opened = await openSafetensors(bytesSource(bytes, file))
  const tensors: Record<string, TensorToWrite & { readonly dtype: SafetensorsDtype }> = {}
  for (const { name, dtype, shape } of opened.tensors.values())
    tensors[name] = { shape, dtype, data: tensorValues(dtype, await opened.read(name)) }
  const text = opened.metadata.get(key)
  return {
    text,
    tensors,
    isWhole: async () => text !== undefined && (await digestOf(key, text, tensors)) === opened.metadata.get('sha256'),
  }
}

async function digestOf(key: string, text: string, tensors: Readonly<Record<string, TensorToWrite>>): Promise<string> {
  const body = encodeSafetensors(tensors, { [key]: text })
  const digest = await globalThis.crypto.subtle.digest('SHA-256', body as Uint8Array<ArrayBuffer>)
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
