// How far the rows that a cache reads are from those it was given: the one number of a quantizer that does not scatter.
import { type KVCompressor, openCache, type Part, type Ready, ready } from '@kvloom/core'
import type { Model } from '@kvloom/engine'
import { mean } from '@kvloom/eval'

const EXACT: KVCompressor = {
  card: { name: 'exact', title: '', summary: '', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/**
 * Mean over layers of `sum (x - x')² / sum x²`, keys and values, after `ids` went in as one prompt. The first `skip` rows,
 * sinks that stay exact, are left out.
 */
export async function rowErrors(
  model: Model,
  compressed: Ready,
  ids: Int32Array,
  skip: number,
): Promise<Record<Part, number>> {
  const [given, read] = [await rowsOf(model, ready(EXACT), ids), await rowsOf(model, compressed, ids)]
  const of = (part: Part): number =>
    mean(
      given.map((layer, i) =>
        relativeError(layer[part], read[i]?.[part] ?? new Float32Array(), model.shape.kvHeads, ids.length, skip),
      ),
    )
  return { keys: of('keys'), values: of('values') }
}

/** Per layer `[kvHeads, n, dim]`, keys after RoPE, which changes no length. */
async function rowsOf(model: Model, compressor: Ready, ids: Int32Array): Promise<Record<Part, Float32Array>[]> {
  const cache = openCache(model.shape, compressor)
  try {
    await model.forward(cache, ids, 'promptEnd', { logits: 'none' })
    const layers: Record<Part, Float32Array>[] = []
    for (let layer = 0; layer < model.shape.layers; layer++) {
      const { keys, values } = await cache.materialize(layer)
      layers.push({
        keys: ((await keys.data()) as Float32Array).slice(),
        values: ((await values.data()) as Float32Array).slice(),
      })
      keys.dispose()
      values.dispose()
    }
    return layers
  } finally {
    cache.dispose()
  }
}

/** Of two arrays `[heads, n, dim]`, over rows from `skip` on. */
export function relativeError(x: Float32Array, y: Float32Array, heads: number, n: number, skip: number): number {
  if (x.length !== y.length) throw new Error(`${x.length} numbers were given and ${y.length} are read`)
  const perHead = x.length / heads
  const first = (skip * perHead) / n
  let [difference, square] = [0, 0]
  for (let head = 0; head < heads; head++)
    for (let i = head * perHead + first; i < (head + 1) * perHead; i++) {
      const value = x[i] ?? Number.NaN
      difference += (value - (y[i] ?? Number.NaN)) ** 2
      square += value ** 2
    }
  return difference / square
}
