/** Fits one part of one layer: its stages in order, each on what the stages before it hand on. */
import * as tf from '@tensorflow/tfjs-core'
import { askedOf } from '../asked'
import { codecOf } from '../cache/plan'
import { TablePool } from '../cache/pool'
import { stagesOn } from '../compose'
import {
  type AnyStage,
  type CalibrationRun,
  type HostTensor,
  type Kind,
  type KVCompressor,
  type Part,
  SEALING,
  type Stage,
} from '../contract'
import { CalibrationError } from '../errors'
import { siteOf } from '../site'
import { mergeHeads, upload } from '../tensors'
import type { Fits } from './fits'

/** Rows of every calibration sequence. */
export type Rows = readonly HostTensor[]

export interface PartRun {
  readonly compressor: KVCompressor
  readonly run: CalibrationRun
  readonly fits: Fits
  readonly layer: number
  readonly part: Part
  /** Rows of this layer and a few before it. */
  readonly rows: ReadonlyMap<number, Readonly<Record<Part, Rows>>>
  /** Reconstructions `[n, width]` of the layer before and of this one. */
  readonly before: Partial<Record<Part, Rows>>
  readonly now: Partial<Record<Part, Rows>>
  readonly predicts: boolean
}

/** Fits one part of one layer. @returns its reconstructions when a predictor will read them, else null */
export async function fitPart(p: PartRun): Promise<Rows | null> {
  const { compressor, run, fits, layer, part, predicts } = p
  const stages = SEALING.flatMap((kind) => stagesOn(compressor, kind, layer, part).map((s) => s as unknown as AnyStage))
  const pool = new TablePool()
  const heads = Array.from({ length: run.model.kvHeads }, (_, h) => h)
  const codecUntil = (until: (s: Stage) => boolean) =>
    codecOf(run.model, { compressor, artifacts: fits.artifacts() }, layer, part, heads, pool.hold, until)
  const fit = async (stage: AnyStage | undefined, target: Rows, sources: readonly Rows[]) => {
    if (stage?.fit?.scope !== 'layer' || fits.has(stage.id, `${layer}.${part}`)) return
    run.progress?.({ layer, layers: run.model.layers, stage: stage.id, part })
    const [first] = target
    const gradients = stage.fit.gradients ? (await run.gradients(layer))[part] : undefined
    const samples = {
      layer,
      part,
      model: run.model,
      heads: first?.shape[0] ?? 0,
      dim: first?.shape[2] ?? 0,
      target,
      sources,
      ...(gradients ? { gradients: gradients.map((g, i) => shapedLike(g, target[i])) } : {}),
    }
    const learned = await stage.fit.run(samples, askedOf(run.model, compressor, stage))
    fits.add(stage.id, `${layer}.${part}`, learned, `${layer}.${part}.`)
  }
  try {
    const own = p.rows.get(layer)?.[part] ?? []
    const of = (kind: Kind) => stages.find((s) => s.kind === kind)
    await fit(of('transform'), own, [])
    const transformed = codecUntil((s) => s.kind === 'transform')
    const group = transformed?.parts.layers ?? [layer]
    if (group.at(-1) !== layer) return predicts ? mapRows(own, (t) => mergeHeads(t)) : null
    // Nothing behind it learns: compose() refuses that.
    if (transformed?.fittedOnline) return null
    const members = group.map((l) => p.rows.get(l)?.[part] ?? [])
    const main = transformed
      ? own.map((_, i) =>
          hostOf(() => {
            const each = members.map((m) => upload(m[i] ?? EMPTY))
            return transformed.parts.transform?.encode(each, {}).main ?? (each[0] as tf.Tensor)
          }),
        )
      : own
    const merged = mapRows(main, (t) => tf.expandDims(mergeHeads(t), 0))
    const predictStage = stagesOn(compressor, 'predict', layer, part)[0]
    let predictions: Rows | null = null
    if (predictStage) {
      const order = sourcesOf(predictStage, p, pool)
      await fit(of('predict'), merged, order)
      const { predictor } = codecUntil((s) => s.kind !== 'quantize')?.parts ?? {}
      if (!predictor) throw new CalibrationError(predictStage.id, 'it was not fitted.')
      predictions = merged.map((_, i) => hostOf(() => predictor.predict(order.map((s) => upload(s[i] ?? EMPTY)))))
    }
    const target = predictions
      ? merged.map((t, i) => hostOf(() => tf.sub(upload(t), tf.expandDims(upload(predictions?.[i] ?? EMPTY), 0))))
      : main
    await fit(of('quantize'), target, [])
    if (!predicts) return null
    const codec = codecUntil(() => true)
    if (!codec) return mapRows(own, (t) => mergeHeads(t))
    return merged.map((_, i) =>
      hostOf(() => {
        const each = members.map((m) => upload(m[i] ?? EMPTY))
        const n = each[0]?.shape[1] ?? 0
        // Whole groups of rows are quantized; the few rows that are left over count as exact.
        const whole = Math.floor(n / codec.rowsPerGroup) * codec.rowsPerGroup
        const exact = upload(merged[i] ?? EMPTY)
        // A text shorter than a group has none, and no stage is asked to encode nothing.
        if (whole === 0) return tf.squeeze(exact, [0])
        const cut = each.map((t) => tf.slice(t as tf.Tensor3D, [0, 0, 0], [-1, whole, -1]))
        const guess = predictions && upload(predictions[i] ?? EMPTY)
        const first = guess && (tf.slice(guess as tf.Tensor2D, [0, 0], [whole, -1]) as tf.Tensor2D)
        const { stored } = codec.encode(cut, {}, first)
        const decoded = mergeHeads(codec.main(stored, whole, 0, whole, first))
        return whole === n
          ? decoded
          : tf.concat([decoded, tf.squeeze(tf.slice(exact as tf.Tensor3D, [0, whole, 0], [-1, -1, -1]), [0])], 0)
      }),
    )
  } finally {
    pool.release()
  }
}

/** The reconstructions that a predictor reads, in its order. It is bound without an artifact to say which, since it needs one only to predict. */
function sourcesOf(
  stage: Stage<'predict'>,
  { before, now, layer, part, run: { model } }: PartRun,
  { hold }: TablePool,
): readonly Rows[] {
  const sources =
    stage.fit?.scope === 'layer' ? stage.fit.sources?.(part) : stage.bind(siteOf(model, layer, part, hold)).sources
  return (sources ?? []).map(({ back, part: of }) => {
    const rows = back === 0 ? now[of] : before[of]
    if (!rows)
      throw new CalibrationError(
        stage.id,
        `layer ${layer} of ${model.name} has no earlier ${of} to be predicted from. Leave the first layer out: exceptLayers([0], ...).`,
      )
    return rows
  })
}

const EMPTY: HostTensor = { shape: [0], values: new Float32Array(0) }

/** Copies a tensor's values to host memory, and frees everything that was made on the way. */
function hostOf(make: () => tf.Tensor): HostTensor {
  const tensor = tf.tidy(make)
  const host = { shape: tensor.shape, values: tensor.dataSync() as Float32Array }
  tensor.dispose()
  return { shape: host.shape, values: host.values.slice() }
}

const mapRows = (rows: Rows, change: (t: tf.Tensor) => tf.Tensor): Rows =>
  rows.map((row) => hostOf(() => change(upload(row))))

/** Brings gradients `[heads, n, dim]` into the shape of the rows that a stage receives, which are merged over heads under a predictor. */
function shapedLike(gradients: HostTensor, target: HostTensor | undefined): HostTensor {
  if (!target || gradients.shape[0] === target.shape[0]) return gradients
  return hostOf(() => tf.expandDims(mergeHeads(upload(gradients)), 0))
}
