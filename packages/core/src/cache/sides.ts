/**
 * Reads a run of rows in the form in which it is stored. Rows that the kernels read are read as they are. Latents of keys are read by projecting
 * the query, latents of values by projecting the output. Everything else is decoded.
 */
import { latentsToOutputs, queriesToLatents, type RowSegment } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Codec } from './codec'
import { DENSE, type Readable, type Reading, type Run } from './reading'
import { readLatents, readRange, shiftAt, stateAt } from './rows/read'
import type { Rows } from './rows/rows'
import { segmentsOf } from './rows/segments'

/** The keys of a run, and the queries that read them. */
export interface KeySide {
  readonly queries: readonly tf.Tensor[]
  readonly segments: readonly RowSegment[]
  readonly dim: number
}

export function keySideOf(lane: Readable, reading: Reading, { from, rows, own }: Run, transient: tf.Tensor[]): KeySide {
  const { keys, shape } = lane
  const { variants, rotation } = reading
  const variantOf = rotation ? () => 0 : reading.variantOf
  const unrotated = rotation !== null
  const form = own ? 'decoded' : formOf(keys, from)
  if (form === 'stored')
    return { queries: variants, segments: segmentsOf(keys, from, rows, variantOf, unrotated), dim: shape.keyDim }
  const { codec } = keys.form
  const up = codec && form === 'latent' && !unrotated ? upOf(keys, from) : null
  if (codec && up) {
    // q . (main . up)^T = (q . up^T) . main^T
    const projected = variants.map((q) => queriesToLatents(q, up, shape.heads.length))
    transient.push(...projected, up)
    return {
      queries: projected,
      segments: latentsOf(keys, codec, from, rows, variantOf, shape.heads.length, transient),
      dim: codec.mainDim,
    }
  }
  const decoded = readRange(keys, from, rows, reading.prediction('keys'))
  transient.push(decoded)
  const query = variantOf(shiftAt(keys, from))
  return {
    queries: variants,
    segments: [{ ...DENSE, tensors: [decoded], rows, query, ...(unrotated ? { unrotated } : {}) }],
    dim: shape.keyDim,
  }
}

/** The values of a run. */
export interface ValueSide {
  readonly segments: readonly RowSegment[]
  readonly dim: number
  /** Turns what attention gave into values `[queryHeads, n, valueDim]`. */
  finish(output: tf.Tensor): tf.Tensor
}

export function valueSideOf(
  lane: Readable,
  reading: Reading,
  { from, rows, own }: Run,
  transient: tf.Tensor[],
): ValueSide {
  const { values, shape } = lane
  const form = own ? 'decoded' : formOf(values, from)
  const same = (output: tf.Tensor) => output
  if (form === 'stored')
    return { segments: segmentsOf(values, from, rows, () => 0, false), dim: shape.valueDim, finish: same }
  const { codec } = values.form
  const up = codec && form === 'latent' ? upOf(values, from) : null
  if (codec && up) {
    // p . (main . up) = (p . main) . up: values are never rebuilt.
    transient.push(up)
    return {
      segments: latentsOf(values, codec, from, rows, () => 0, shape.heads.length, transient),
      dim: codec.mainDim,
      finish: (output) => latentsToOutputs(output, up, shape.heads.length),
    }
  }
  const decoded = readRange(values, from, rows, reading.prediction('values'))
  transient.push(decoded)
  return { segments: [{ ...DENSE, tensors: [decoded], rows }], dim: shape.valueDim, finish: same }
}

/** The latents of a run as segments: as they are stored where kernels read that, else decoded. Each of their heads is read by the KV heads that it stands for. */
function latentsOf(
  part: Rows,
  codec: Codec,
  from: number,
  rows: number,
  variantOf: (shift: number) => number,
  heads: number,
  transient: tf.Tensor[],
): readonly RowSegment[] {
  const share = heads / codec.mainHeads
  // A run may begin within a group, which kernels read from its start.
  if (codec.fusedMain && codec.decodedByLayout && !codec.byBlocks)
    return segmentsOf(part, from, rows, variantOf, false, share)
  const main = readLatents(part, from, rows)
  transient.push(main)
  return [{ ...DENSE, tensors: [main], rows, query: variantOf(shiftAt(part, from)), share }]
}

/** How rows from `from` on (all of one zone) can be read: as stored, as latents, or only decoded. */
function formOf(part: Rows, from: number): 'stored' | 'latent' | 'decoded' {
  const { views, form } = part
  if (views.onHost) return 'decoded'
  if (views.zoneAt(from) !== 'sealed' || !form.codec) return 'stored'
  const { fused, byBlocks, parts } = form.codec
  if (fused) return byBlocks ? 'decoded' : 'stored'
  return parts.transform && !parts.predictor && parts.layers.length === 1 ? 'latent' : 'decoded'
}

/**
 * `up` `[mainHeads, mainDim, width]` for the rows from `from` on, if their transform decodes by `main . up` and nothing else; null if not.
 * It is the caller's.
 */
function upOf(part: Rows, from: number): tf.Tensor | null {
  const transform = part.form.codec?.parts.transform
  if (!transform) return null
  let plain: tf.Tensor | null = null
  tf.tidy(() => {
    const { up, bias } = transform.decoder(stateAt(part, from), part.form.codec?.parts.member ?? 0)
    if (!up || bias) return []
    plain = tf.clone(up)
    return plain
  })
  return plain
}
