// A cache as a file: written atomically, checked when read (Node).
import fs from 'node:fs/promises'
import {
  type KVCache,
  type KVCompressor,
  KvloomError,
  type ModelOrShape,
  type Ready,
  restoreCache,
  SerializedCacheError,
} from '@kvloom/core'
import { writeWhole } from './files/write-whole'

/**
 * Saves a cache between two steps; an older file stays as it was until the new one is whole.
 * @throws CacheStateError inside a step; KvloomError with code CACHE_FILE where the disk refuses (no space, no permission, no folder)
 */
export async function saveCache(cache: KVCache, file: string): Promise<void> {
  try {
    await writeWhole(file, cache.serialize())
  } catch (cause) {
    if (cause instanceof KvloomError) throw cause
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    throw new KvloomError(
      'CACHE_FILE',
      `${file} cannot be written (${code}). Choose another place or free some space.`,
      { cause },
    )
  }
}

/**
 * Restores what `saveCache` wrote, bit for bit, for the same model and compressor.
 * @throws SerializedCacheError when the file is missing, damaged, or of another version, model or compressor
 */
export async function loadCache(model: ModelOrShape, compressor: Ready | KVCompressor, file: string): Promise<KVCache> {
  let bytes: Uint8Array
  try {
    bytes = await fs.readFile(file)
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    throw new SerializedCacheError(`${file} cannot be read (${code}).`)
  }
  return restoreCache(model, compressor, bytes)
}
