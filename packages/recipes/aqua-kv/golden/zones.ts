/** Which tokens are exact and which are sealed after every append, in the real cache. */

import {
  type Artifact,
  artifactFingerprint,
  type HostTensor,
  type KVCompressor,
  type ModelShape,
  openCache,
  ready,
} from '@kvloom/core'
import {
  compareArrays,
  type GoldenCase,
  numberOption,
  numbersOption,
  type Outcome,
  oneHead,
  type TensorResult,
  wrong,
} from '@kvloom/golden'
import { dispose, zeros } from '@tensorflow/tfjs-core'
import { aquaKv } from '../src/aqua-kv'

const CHANNELS = 64
const LAYERS = 2

/** Rows of the expected table: sinks, sealed tokens, exact tokens that wait, chunks sealed so far. */
export async function zones(golden: GoldenCase): Promise<Outcome> {
  const compressor = aquaKv({
    sinks: numberOption(golden, 'sinks'),
    block: numberOption(golden, 'minBuffer'),
    group: CHANNELS,
  })
  const table = await zoneTable(compressor, numbersOption(golden, 'appends'))
  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    if (name !== 'zones') tensors.push(wrong(name, 'no result for this name'))
    else
      tensors.push(
        compareArrays(
          name,
          { shape: [table.length / 4, 4], data: Int32Array.from(table) },
          await golden.expected(name),
          golden.tolerance(name),
        ),
      )
  }
  return { tensors }
}

async function zoneTable(compressor: KVCompressor, appends: readonly number[]): Promise<number[]> {
  const model = oneHead(CHANNELS, LAYERS)
  const cache = openCache(model, ready(compressor, [zeroPredictors(model, compressor)]))
  const table: number[] = []
  let [chunks, before] = [0, 0]
  try {
    for (const [i, count] of appends.entries()) {
      cache.begin(new Int32Array(count), i === 0 ? 'promptEnd' : 'decode')
      for (let layer = 0; layer < LAYERS; layer++) {
        const rows = zeros([1, count, CHANNELS])
        dispose([await cache.attend(layer, { queries: rows, keys: rows, values: rows }), rows])
      }
      await cache.commit()
      const rowsIn = (zone: string): number =>
        (cache.segments(LAYERS - 1)[0]?.keys ?? []).reduce((sum, s) => sum + (s.zone === zone ? s.rows : 0), 0)
      const sealed = rowsIn('sealed')
      if (sealed > before) chunks++
      before = sealed
      table.push(rowsIn('sink'), sealed, rowsIn('window'), chunks)
    }
  } finally {
    cache.dispose()
  }
  return table
}

/** Predictors that predict zeros: zones do not depend on what is predicted. */
function zeroPredictors(model: ModelShape, compressor: KVCompressor): Artifact {
  const tensors: Record<string, HostTensor> = {}
  const none = (...shape: number[]): HostTensor => ({
    shape,
    values: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  })
  for (let layer = 1; layer < LAYERS; layer++) {
    tensors[`${layer}.keys.weight`] = none(CHANNELS, CHANNELS)
    tensors[`${layer}.values.weight`] = none(CHANNELS, 2 * CHANNELS)
    for (const part of ['keys', 'values']) tensors[`${layer}.${part}.bias`] = none(CHANNELS)
  }
  const stage = 'linear-predictor'
  return { stage, fingerprint: artifactFingerprint(model, compressor, stage), json: null, tensors }
}
