/**
 * Reads a run of rows in the form in which it is stored. Rows that the kernels read are read as they are. Latents of keys are read by projecting
 * the query, latents of values by projecting the output. Everything else is decoded.
 */
import type { RowSegment } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
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
  if (codec && up && codec.mainHeads === shape.heads.length) {
    // q . (main . up)^T = (q . up^T) . main^T
    const projected = variants.map((q) => onQueries(q, up))
    const main = readLatents(keys, from, rows)
    transient.push(...projected, main, up)
    const query = variantOf(shiftAt(keys, from))
    return { queries: projected, segments: [{ ...DENSE, tensors: [main], rows, query }], dim: codec.mainDim }
  }
  if (up) transient.push(up)
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
    const main = readLatents(values, from, rows)
    const each = shape.heads.length / codec.mainHeads
    const repeated = each === 1 ? main : repeatHeads(main, shape.heads.length)
    transient.push(up, main, ...(repeated === main ? [] : [repeated]))
    return {
      segments: [{ ...DENSE, tensors: [repeated], rows }],
      dim: codec.mainDim,
      finish: (output) => onOutput(output, up, shape.heads.length, shape.valueDim),
    }
  }
  const decoded = readRange(values, from, rows, reading.prediction('values'))
  transient.push(decoded)
  return { segments: [{ ...DENSE, tensors: [decoded], rows }], dim: shape.valueDim, finish: same }
}

/** Repeats each head of `main` `[mainHeads, n, r]` for every KV head that it stands for. */
const repeatHeads = (main: tf.Tensor3D, heads: number): tf.Tensor =>
  tf.tidy(() => {
    const each = heads / main.shape[0]
    const of = (h: number) => tf.slice(main, [Math.floor(h / each), 0, 0], [1, -1, -1])
    return tf.concat(
      Array.from({ length: heads }, (_, h) => of(h)),
      0,
    )
  })

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

/** Projects queries `[queryHeads, n, keyDim]` by `up` `[kvHeads, r, keyDim]` to `[queryHeads, n, r]`. */
const onQueries = (queries: tf.Tensor, up: tf.Tensor): tf.Tensor =>
  tf.tidy(() => {
    const [kvHeads = 1] = up.shape
    const [queryHeads = 0, n = 0, dim = 0] = queries.shape
    const group = queryHeads / kvHeads
    return tf.concat(
      Array.from({ length: kvHeads }, (_, h) => {
        const q = tf.reshape(tf.slice(queries as tf.Tensor3D, [h * group, 0, 0], [group, -1, -1]), [group * n, dim])
        const u = tf.squeeze(tf.slice(up as tf.Tensor3D, [h, 0, 0], [1, -1, -1]), [0]) as tf.Tensor2D
        return tf.reshape(tf.matMul(q, tf.transpose(u)), [group, n, -1])
      }),
      0,
    )
  })

/** Projects an output `[queryHeads, n, r]` by `up` `[mainHeads, r, kvHeads * dim / mainHeads]` to `[queryHeads, n, dim]`. */
const onOutput = (output: tf.Tensor, up: tf.Tensor, kvHeads: number, dim: number): tf.Tensor =>
  tf.tidy(() => {
    const [queryHeads = 0, n = 0, r = 0] = output.shape
    const group = queryHeads / kvHeads
    const each = kvHeads / (up.shape[0] ?? 1)
    return tf.concat(
      Array.from({ length: kvHeads }, (_, h) => {
        const o = tf.reshape(tf.slice(output as tf.Tensor3D, [h * group, 0, 0], [group, -1, -1]), [group * n, r])
        const block = tf.slice(up as tf.Tensor3D, [Math.floor(h / each), 0, (h % each) * dim], [1, -1, dim])
        return tf.reshape(tf.matMul(o, tf.squeeze(block, [0]) as tf.Tensor2D), [group, n, dim])
      }),
      0,
    )
  })
