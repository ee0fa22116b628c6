/**
 * The largest numbers that a layer takes: what attention can compute with, what its store holds, and what the latents and metadata of its
 * stages hold. Rows may grow on the way there (`gain`).
 */
import { LARGEST_HALF } from '@kvloom/kernels'
import type { Kind, RowStore } from '../contract'
import type { Limit } from '../errors'
import type { Codec } from './codec'

/**
 * What any layer takes. A score is a sum of products of two such numbers, and scores must stay far below the 1e30 that stands for a row
 * that is not seen: beyond, attention would be NaN, or see what it must not.
 */
export const IN_F32: Limit = { most: 1e12, of: 'attention in f32', cure: '' }

/**
 * The smallest of all limits; all of those by name that are the same, for then one cure alone does not help.
 * @param codec of one part of a layer, null where nothing seals
 * @param rewritten by how much a resampling makes stored rows larger at most
 * @param idOf names the stage of a kind
 */
export function limitOf(store: RowStore, codec: Codec | null, rewritten: number, idOf: (kind: Kind) => string): Limit {
  const { transform = null, quantizer = null, layers = [] } = codec?.parts ?? {}
  const gain = transform?.gain ?? 1
  const stored: Limit =
    store === 'f32'
      ? IN_F32
      : { most: LARGEST_HALF, of: 'its store, f16,', cure: "window({ store: 'f32' }, ...) holds larger numbers." }
  const metadata = (kind: Kind, most: number, cure?: string): Limit => {
    const id = idOf(kind)
    const leaveOut = `exceptLayers([${layers.join(', ')}], ...) around ${id} leaves out what does not fit it.`
    return { most, of: `the metadata of ${id}`, cure: cure ?? leaveOut }
  }
  const limits = [{ ...stored, most: stored.most / rewritten }]
  if (transform && !quantizer) limits.push({ ...stored, most: stored.most / gain })
  if (transform?.largest !== undefined) limits.push(metadata('transform', transform.largest))
  if (quantizer?.largest !== undefined)
    limits.push(metadata('quantize', quantizer.largest / gain, quantizer.largestCure))
  const most = Math.min(IN_F32.most, ...limits.map((limit) => limit.most))
  if (most === IN_F32.most) return IN_F32
  const binding = new Map(limits.filter((limit) => limit.most === most).map(({ of, cure }) => [of, cure]))
  return {
    most,
    of: [...binding.keys()].join(' and '),
    cure: [...binding.values()].filter((cure) => cure !== '').join(' '),
  }
}
