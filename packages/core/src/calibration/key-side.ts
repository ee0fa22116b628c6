/** Brings the rows of a calibration to the side of RoPE on which a cache will store them. */
import { actsOn, keySide } from '../compose'
import type { HostTensor, KVCompressor, ModelShape, Part, Rope } from '../contract'
import { CalibrationError } from '../errors'
import type { Rows } from './fit-part'

/** The rows of a layer as its stages will receive them: keys are rotated where the layer stores them after RoPE. Every sequence begins at position 0. */
export function rowsAsStored(
  model: ModelShape,
  { stages }: KVCompressor,
  layer: number,
  rows: Readonly<Record<Part, Rows>>,
): Readonly<Record<Part, Rows>> {
  const { rope } = model
  if (!rope || keySide(stages, layer) === 'pre') return rows
  return { ...rows, keys: rows.keys.map((keys) => rotated(rope, keys)) }
}

/** Rotates row t of every head to position t, on the host and in double precision. */
function rotated({ dim: turned, frequencies, attentionFactor }: Rope, { shape, values }: HostTensor): HostTensor {
  const [heads = 0, tokens = 0, dim = 0] = shape
  const pairs = turned / 2
  const result = Float32Array.from(values)
  for (let position = 0; position < tokens; position++)
    for (let j = 0; j < pairs; j++) {
      const angle = position * (frequencies[j] ?? 0)
      const [cos, sin] = [Math.cos(angle) * attentionFactor, Math.sin(angle) * attentionFactor]
      for (let head = 0; head < heads; head++) {
        const at = (head * tokens + position) * dim + j
        const [a, b] = [values[at] ?? 0, values[at + pairs] ?? 0]
        result[at] = a * cos - b * sin
        result[at + pairs] = b * cos + a * sin
      }
    }
  return { shape, values: result }
}

/** @throws CalibrationError for a fit that weighs keys after RoPE by gradients, which engines have of keys before it */
export function refuseGradientsAfterRope(model: ModelShape, { stages }: KVCompressor): void {
  if (!model.rope) return
  for (let layer = 0; layer < model.layers; layer++)
    for (const stage of stages)
      if (
        stage.fit?.scope === 'layer' &&
        stage.fit.gradients &&
        actsOn(stage, layer) &&
        stage.on?.part !== 'values' &&
        keySide(stages, layer) === 'post'
      )
        throw new CalibrationError(
          stage.id,
          `layer ${layer} stores keys after RoPE, and gradients are of keys before it. Let it take keys before RoPE, or leave gradients out.`,
        )
}
