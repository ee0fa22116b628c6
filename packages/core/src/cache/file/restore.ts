/** Reads a cache from a file; see format.ts. Everything in the file is checked before it is used, and what was made is freed on failure. */
import { KernelInputError } from '@kvloom/kernels'
import { sha256 } from '@noble/hashes/sha2.js'
import { type ModelOrShape, shapeGiven } from '../../arguments'
import { checkArtifacts } from '../../artifacts'
import type { KVCache, KVCompressor, ModelShape, Ready } from '../../contract'
import { KvloomError, OptionError, SerializedCacheError } from '../../errors'
import { Account } from '../account'
import { Cache } from '../cache'
import { openLayers, readyGiven } from '../open'
import { DIGEST_BYTES, fingerprintOf, type Header, MAGIC, modelKey, VERSION } from './format'
import { headerOf } from './header'
import { Reader } from './reader'

/**
 * Restores a cache from the bytes of `serialize()`.
 * @param given the loaded model that the cache was of, or its shape
 * @param compressor with its artifacts (`ready()`) where it has any
 * @throws OptionError for anything else; SerializedCacheError when damaged, of another version, model or compressor; ArtifactMismatch
 */
export function restoreCache(given: ModelOrShape, compressor: Ready | KVCompressor, file: Uint8Array): KVCache {
  const model = shapeGiven('restoreCache', given)
  const ready = readyGiven('restoreCache', compressor)
  if (!(file instanceof Uint8Array))
    throw new OptionError('restoreCache', 'file', typeof file, 'the bytes that serialize() gave')
  checkArtifacts(model, ready)
  const { header, tensors } = open(model, ready, file)
  const from = new Reader(header, tensors)
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  try {
    if (header.layers.length !== layers.length)
      throw new SerializedCacheError(
        `it holds ${header.layers.length} layers, and this model's cache ${layers.length}.`,
      )
    for (const [i, record] of header.layers.entries()) layers[i]?.restore(record, from)
    from.end()
    const { tokens, settledTokens } = header
    return new Cache(model, ready, { layers, pool, account, tokens, settledTokens })
  } catch (error) {
    for (const layer of layers) layer.dispose()
    pool.release()
    from.dispose()
    if (error instanceof KvloomError && !(error instanceof KernelInputError)) throw error
    const message = error instanceof Error ? error.message : String(error)
    throw new SerializedCacheError(`its contents do not fit this cache (${message}).`)
  }
}

/** Returns the checked header and the bytes of the tensors. */
function open(model: ModelShape, ready: Ready, file: Uint8Array): { header: Header; tensors: Uint8Array } {
  const at = MAGIC.length + 8
  if (file.length < at + DIGEST_BYTES || MAGIC.some((b, i) => file[i] !== b))
    throw new SerializedCacheError('it is no kvloom cache file, or it was cut short.')
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const version = view.getUint32(MAGIC.length, true)
  if (version !== VERSION) throw new SerializedCacheError(`its version is ${version}, this kvloom reads ${VERSION}.`)
  const body = file.subarray(0, file.length - DIGEST_BYTES)
  const stored = file.subarray(file.length - DIGEST_BYTES)
  if (sha256(body).some((b, i) => stored[i] !== b))
    throw new SerializedCacheError('its checksum does not match; the file is damaged or cut short.')
  const end = at + view.getUint32(MAGIC.length + 4, true)
  if (end > body.length) throw new SerializedCacheError('its header is longer than the file.')
  const header = headerOf(body.subarray(at, end))
  if (header.model !== modelKey(model)) throw new SerializedCacheError('it belongs to another model.')
  if (header.compressor !== fingerprintOf(ready))
    throw new SerializedCacheError('it was made by another compressor or other options.')
  return { header, tensors: body.subarray(end) }
}
