/**
 * DEFLATE: rows that leave the device are entropy-coded. The bytes of a tensor are sorted by their place in a number first (all lowest
 * bytes, then all second ones, ...): exponents and signs of neighbours are alike, and so are the high bytes of nearly empty words.
 *
 *   planes = for place p = 0 ... 3: byte p of every number, in order    coded = DEFLATE(planes)
 *
 * P. Deutsch, "DEFLATE Compressed Data Format Specification" (RFC 1951); the entropy coder that KVTC (arXiv 2511.01815, section 3) puts
 * behind its quantizer for caches that are stored. What differs from KVTC: the coder alone, behind whatever quantizer is composed with it.
 */
import { defineLossless, KvloomError } from '@kvloom/core'
import { deflateSync, Inflate } from 'fflate'
import { deflateOptions } from './options'

/** Bytes of a number, f32 or int32. */
const PLACES = 4

/** Entropy-codes rows in a recall's host tier and in saved caches. */
export const deflate = defineLossless({
  name: 'deflate',
  title: 'DEFLATE',
  summary: 'Entropy-codes rows in host memory and in saved caches, without loss.',
  paper: {
    title: 'DEFLATE Compressed Data Format Specification (RFC 1951)',
    link: 'https://www.rfc-editor.org/rfc/rfc1951',
  },
  options: deflateOptions,
  codec: ({ level }) => ({
    encode: ({ values }) =>
      deflateSync(sorted(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)), {
        level: level as 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9,
      }),
    decode(bytes, { shape, dtype }) {
      const size = shape.reduce((a, b) => a * b, 1) * PLACES
      const { buffer } = unsorted(inflated(bytes, size))
      return { shape, values: dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer) }
    },
  }),
})

/** So many bytes are decoded at a time. DEFLATE makes at most 1032 of one, so that codes which would fill the memory are noticed before. */
const STEP = 4096

/** @throws KvloomError DEFLATE_BYTES for bytes that are damaged, or of another tensor */
function inflated(bytes: Uint8Array, size: number): Uint8Array {
  const pieces: Uint8Array[] = []
  let length = 0
  const inflate = new Inflate((piece) => {
    pieces.push(piece)
    length += piece.length
  })
  try {
    // Nothing ends in the middle of a code, so the last bytes are said to be the last.
    for (let at = 0; at === 0 || (at < bytes.length && length <= size); at += STEP)
      inflate.push(bytes.subarray(at, at + STEP), at + STEP >= bytes.length)
  } catch (error) {
    throw new KvloomError('DEFLATE_BYTES', `deflate: coded rows cannot be decoded (${String(error)}).`)
  }
  if (length !== size)
    throw new KvloomError(
      'DEFLATE_BYTES',
      `deflate: coded rows have ${length > size ? 'at least ' : ''}${length} bytes, and ${size} are expected.`,
    )
  const out = new Uint8Array(size)
  let at = 0
  for (const piece of pieces) {
    out.set(piece, at)
    at += piece.length
  }
  return out
}

/** Sorts bytes by their place in a number. */
function sorted(bytes: Uint8Array): Uint8Array {
  const n = bytes.length / PLACES
  const planes = new Uint8Array(bytes.length)
  for (let p = 0; p < PLACES; p++) for (let i = 0; i < n; i++) planes[p * n + i] = bytes[i * PLACES + p] ?? 0
  return planes
}

function unsorted(planes: Uint8Array): Uint8Array<ArrayBuffer> {
  const n = planes.length / PLACES
  const bytes = new Uint8Array(planes.length)
  for (let p = 0; p < PLACES; p++) for (let i = 0; i < n; i++) bytes[i * PLACES + p] = planes[p * n + i] ?? 0
  return bytes
}
