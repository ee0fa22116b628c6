/** Short names of texts and weights: what has the same name is the same. */
import { createHash } from 'node:crypto'
import type { WeightValues } from '@kvloom/engine'

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Int32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)

/** Of sequences of token ids. */
export function textFingerprint(sequences: readonly Int32Array[]): string {
  const hash = createHash('sha256')
  for (const ids of sequences) hash.update(`${ids.length} `).update(bytesOf(ids))
  return hash.digest('hex').slice(0, 16)
}

/** Of trained weights. */
export function fingerprintOf(values: WeightValues): string {
  const hash = createHash('sha256')
  for (const [name, numbers] of values) hash.update(`${name} ${numbers.length} `).update(bytesOf(numbers))
  return hash.digest('hex').slice(0, 16)
}
