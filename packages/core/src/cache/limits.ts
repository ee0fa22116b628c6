/**
 * The largest numbers that a layer takes: what its store holds, and what the latents and metadata of its stages hold. Rows may grow on
 * the way there (`gain`).
 */
import { LARGEST_HALF } from '@kvloom/kernels'
import type { Kind, RowStore } from '../contract'
import type { Limit } from '../errors'
import type { Codec } from './codec'

/** The largest finite f32. */
const LARGEST_F32 = 3.4028234663852886e38

export const ANY_FINITE: Limit = { most: LARGEST_F32, of: null, cure: '' }

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
      ? { most: LARGEST_F32, of: 'its store, f32,', cure: '' }
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
  const most = Math.min(LARGEST_F32, ...limits.map((limit) => limit.most))
  if (most === LARGEST_F32) return ANY_FINITE
  const binding = limits.filter((limit, i) => limit.most === most && limits.findIndex((l) => l.of === limit.of) === i)
  return {
    most,
    of: binding.map(({ of }) => of).join(' and '),
    cure: binding.flatMap(({ cure }) => (cure === '' ? [] : [cure])).join(' '),
  }
}
