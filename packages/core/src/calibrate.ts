/**
 * Calibration: fits every stage that learns, on what it will really receive. Model-wide fits first; then layer by layer, keys
 * before values, stages in order, each behind the stages before it, and predictors on reconstructions through their own quantizer.
 */
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'
import * as tf from '@tensorflow/tfjs-core'
import { mergeHeads } from './cache/codec'
import { artifactOf, codecOf, sourceLayers } from './cache/plan'
import { TablePool } from './cache/pool'
import { actsOn, compose, stagesOn } from './compose'
import type {
  AnyStage,
  Artifact,
  CalibrationRun,
  HostTensor,
  Json,
  Kind,
  KVCompressor,
  Learned,
  ModelShape,
  Part,
  Ready,
  Stage,
} from './contract'
import { ArtifactMismatch, CalibrationError, NotCalibrated } from './errors'
import { differenceInWords, fittedFor } from './fitted-for'
import { siteOf, upload } from './site'

/**
 * Pairs a compressor with the artifacts of its fitted stages. Artifacts of stages that the compressor does not have are passed over.
 * @throws NotCalibrated when a stage with `fit` has no artifact; ArtifactMismatch when it has two, or one that was fitted for other
 *   stages or options. Whether the model is the right one shows when a cache is opened.
 */
export function ready(compressor: KVCompressor, artifacts: readonly Artifact[] = []): Ready {
  const whole = compose(compressor)
  for (const id of learningStages(whole)) {
    const [artifact, twin] = artifacts.filter((a) => a.stage === id)
    if (!artifact) throw new NotCalibrated(id, 'no artifact was given.')
    if (twin) throw new ArtifactMismatch(id, 'two artifacts of this stage were given.', 'Give the one that fits.')
    const was = artifact.fittedFor
    // The stages are known already, the model is not: the artifact's own model stands in for it.
    const wanted = was && { ...was, stages: fittedFor(NO_MODEL, whole).stages }
    if (wanted && JSON.stringify(was.stages) !== JSON.stringify(wanted.stages))
      throw new ArtifactMismatch(id, differenceInWords(artifact, wanted))
  }
  return Object.freeze({ compressor: whole, artifacts, ready: true })
}

const NO_MODEL = { name: '', fingerprint: '' } as ModelShape

/** Ids of the stages that have to be fitted. */
const learningStages = (compressor: KVCompressor): ReadonlySet<string> =>
  new Set(compressor.stages.filter((s) => s.fit).map((s) => s.id))

/** Identifies what an artifact was fitted for: the model's weights, the stage, and the stages around it with their options. */
export function artifactFingerprint(model: ModelShape, compressor: KVCompressor, stage: string): string {
  const { weights, stages } = fittedFor(model, compressor)
  const around = stages.map(({ kind, id, options, on }) => [kind, id, options, on])
  return bytesToHex(sha256(new TextEncoder().encode(JSON.stringify([weights, stage, around]))))
}

/** @throws ArtifactMismatch, saying in words what differs, when an artifact was fitted for another model, other options or other neighbours. */
export function checkArtifact(model: ModelShape, compressor: KVCompressor, artifact: Artifact): void {
  const wanted = artifactFingerprint(model, compressor, artifact.stage)
  if (artifact.fingerprint !== wanted)
    throw new ArtifactMismatch(artifact.stage, differenceInWords(artifact, fittedFor(model, compressor)))
}

/** @throws NotCalibrated, ArtifactMismatch */
export function checkArtifacts(model: ModelShape, { compressor, artifacts }: Ready): void {
  for (const id of learningStages(compressor)) {
    const artifact = artifactOf(artifacts, id)
    if (!artifact) throw new NotCalibrated(id, 'no artifact was given.')
    checkArtifact(model, compressor, artifact)
  }
}

export interface CalibrateOptions {
  /** Artifacts of an interrupted calibration: what they hold is not fitted again. One that was fitted for something else is refused. */
  readonly known?: readonly Artifact[]
  /** Called with everything fitted so far, after each model-wide fit and each layer. */
  readonly onArtifacts?: (artifacts: readonly Artifact[]) => void | Promise<void>
  /** Aborts between two fits with the signal's reason. */
  readonly signal?: AbortSignal
}

/** Whether some stage has to be fitted before the compressor can open a cache. */
export const needsCalibration = (compressor: KVCompressor): boolean => compressor.stages.some((s) => s.fit)

/**
 * Fits what has to be fitted and returns a compressor that opens caches.
 * @throws CalibrationError, ArtifactMismatch for `known` of other settings, and what the fits throw
 */
export async function calibrate(
  compressor: KVCompressor,
  run: CalibrationRun,
  options: CalibrateOptions = {},
): Promise<Ready> {
  const whole = compose(compressor)
  const fits = new Fits(whole, run.model, options.known ?? [])
  const report = async () => {
    options.signal?.throwIfAborted()
    await options.onArtifacts?.(fits.artifacts())
  }
  for (const stage of whole.stages) {
    if (stage.fit?.scope !== 'model' || fits.has(stage.id, `model.${stage.on?.part ?? 'both'}`)) continue
    options.signal?.throwIfAborted()
    run.progress?.({ layer: 0, layers: run.model.layers, stage: stage.id, part: stage.on?.part ?? null })
    fits.add(stage.id, `model.${stage.on?.part ?? 'both'}`, await stage.fit.run(run), '')
    await report()
  }
  if (leavesToFit(whole, run.model, fits)) await fitLayers(whole, run, fits, report)
  return ready(whole, fits.artifacts())
}

/** What was fitted so far, by stage. */
class Fits {
  private readonly json = new Map<string, Record<string, Json>>()
  private readonly tensors = new Map<string, Record<string, HostTensor>>()

  constructor(
    private readonly compressor: KVCompressor,
    private readonly model: ModelShape,
    known: readonly Artifact[],
  ) {
    for (const artifact of known) {
      checkArtifact(model, compressor, artifact)
      const { stage, json, tensors } = artifact
      this.json.set(stage, { ...(json as Record<string, Json>) })
      this.tensors.set(stage, { ...tensors })
    }
  }

  has(stage: string, key: string): boolean {
    return this.json.get(stage)?.[key] !== undefined
  }
  add(stage: string, key: string, { json, tensors }: Learned, prefix: string): void {
    this.json.set(stage, { ...this.json.get(stage), [key]: json })
    const named = Object.entries(tensors).map(([name, t]) => [`${prefix}${name}`, t] as const)
    this.tensors.set(stage, { ...this.tensors.get(stage), ...Object.fromEntries(named) })
  }
  artifacts(): readonly Artifact[] {
    return [...this.json.keys()].map((stage) => ({
      stage,
      fingerprint: artifactFingerprint(this.model, this.compressor, stage),
      fittedFor: fittedFor(this.model, this.compressor),
      json: this.json.get(stage) ?? {},
      tensors: this.tensors.get(stage) ?? {},
    }))
  }
}

type Rows = readonly HostTensor[]

/** Whether some layer and part still has a fit to come; if not, nobody needs the model's rows. */
const leavesToFit = (compressor: KVCompressor, { layers }: ModelShape, fits: Fits): boolean =>
  compressor.stages.some(
    (s) =>
      s.fit?.scope === 'layer' &&
      Array.from({ length: layers }, (_, layer) => layer).some(
        (layer) =>
          actsOn(s, layer) &&
          PARTS.some((part) => (s.on?.part ?? part) === part && !fits.has(s.id, `${layer}.${part}`)),
      ),
  )
const PARTS: readonly Part[] = ['keys', 'values']

async function fitLayers(
  compressor: KVCompressor,
  run: CalibrationRun,
  fits: Fits,
  report: () => Promise<void>,
): Promise<void> {
  const { model } = run
  const sources = sourceLayers(model, { compressor, artifacts: fits.artifacts(), ready: true })
  const predicts = compressor.stages.some((s) => s.kind === 'predict')
  let before: Partial<Record<Part, Rows>> = {}
  const group = new Map<number, Readonly<Record<Part, Rows>>>()
  for (let layer = 0; layer < model.layers; layer++) {
    if (sources[layer] !== layer) continue
    const rows = await run.rows(layer)
    group.set(layer, rows)
    const now: Partial<Record<Part, Rows>> = {}
    for (const part of PARTS) {
      const made = await fitPart({ compressor, run, fits, layer, part, rows: group, before, now, predicts })
      if (made) now[part] = made
    }
    for (const old of group.keys()) if (old < layer - 3) group.delete(old)
    before = now
    await report()
  }
}

interface PartRun {
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

/** Fits one layer and part; returns its reconstructions when a predictor will read them. */
async function fitPart(p: PartRun): Promise<Rows | null> {
  const { compressor, run, fits, layer, part, predicts } = p
  const stages = (['transform', 'predict', 'quantize'] as const).flatMap((kind) =>
    stagesOn(compressor, kind, layer, part).map((s) => s as unknown as AnyStage),
  )
  const pool = new TablePool()
  const heads = Array.from({ length: run.model.kvHeads }, (_, h) => h)
  const codecUntil = (until: (s: Stage) => boolean) =>
    codecOf(run.model, { compressor, artifacts: fits.artifacts() }, layer, part, heads, pool.hold, until)
  const fit = async (stage: AnyStage | undefined, target: Rows, sources: readonly Rows[], raw: boolean) => {
    if (stage?.fit?.scope !== 'layer' || fits.has(stage.id, `${layer}.${part}`)) return
    run.progress?.({ layer, layers: run.model.layers, stage: stage.id, part })
    const [first] = target
    const gradients = stage.fit.gradients && raw ? (await run.gradients(layer))[part] : undefined
    const learned = await stage.fit.run({
      layer,
      part,
      model: run.model,
      heads: first?.shape[0] ?? 0,
      dim: first?.shape[2] ?? 0,
      target,
      sources,
      ...(gradients ? { gradients: gradients.map((g, i) => shapedLike(g, target[i])) } : {}),
    })
    fits.add(stage.id, `${layer}.${part}`, learned, `${layer}.${part}.`)
  }
  try {
    const own = p.rows.get(layer)?.[part] ?? []
    const of = (kind: Kind) => stages.find((s) => s.kind === kind)
    await fit(of('transform'), own, [], true)
    const transformed = codecUntil((s) => s.kind === 'transform')
    const group = transformed?.parts.layers ?? [layer]
    if (group.at(-1) !== layer) return predicts ? mapRows(own, (t) => mergeHeads(t)) : null
    if (transformed?.fittedOnline && stages.some((s) => s.kind !== 'transform' && s.fit))
      throw new CalibrationError(
        stages.find((s) => s.kind !== 'transform' && s.fit)?.id ?? 'a stage',
        `its rows come from ${of('transform')?.id ?? 'a transform'}, which is fitted anew on every prompt. Put a stage that needs no calibration behind it.`,
      )
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
      const order = sourcesOf(predictStage, p, run.model)
      await fit(of('predict'), merged, order, !transformed)
      const { predictor } = codecUntil((s) => s.kind !== 'quantize')?.parts ?? {}
      if (!predictor) throw new CalibrationError(predictStage.id, 'it was not fitted.')
      predictions = merged.map((_, i) => hostOf(() => predictor.predict(order.map((s) => upload(s[i] ?? EMPTY)))))
    }
    const target = predictions
      ? merged.map((t, i) => hostOf(() => tf.sub(upload(t), tf.expandDims(upload(predictions?.[i] ?? EMPTY), 0))))
      : main
    await fit(of('quantize'), target, [], !transformed)
    if (!predicts) return null
    const codec = codecUntil(() => true)
    if (!codec) return mapRows(own, (t) => mergeHeads(t))
    return merged.map((_, i) =>
      hostOf(() => {
        const each = members.map((m) => upload(m[i] ?? EMPTY))
        const n = each[0]?.shape[1] ?? 0
        // Whole groups of rows are quantized; the few rows that are left over count as exact.
        const whole = Math.floor(n / codec.rowsPerGroup) * codec.rowsPerGroup
        const cut = each.map((t) => tf.slice(t as tf.Tensor3D, [0, 0, 0], [-1, whole, -1]))
        const guess = predictions && upload(predictions[i] ?? EMPTY)
        const first = guess && (tf.slice(guess as tf.Tensor2D, [0, 0], [whole, -1]) as tf.Tensor2D)
        const { tensors } = codec.encode(cut, {}, first)
        const decoded = mergeHeads(codec.main(tensors, whole, 0, whole, first))
        const exact = upload(merged[i] ?? EMPTY)
        return whole === n
          ? decoded
          : tf.concat([decoded, tf.squeeze(tf.slice(exact as tf.Tensor3D, [0, whole, 0], [-1, -1, -1]), [0])], 0)
      }),
    )
  } finally {
    pool.release()
  }
}

/** The reconstructions that a predictor reads, in its order. Its bound form says which, and needs an artifact only to predict. */
function sourcesOf(stage: Stage<'predict'>, { before, now, layer, part }: PartRun, model: ModelShape): readonly Rows[] {
  const sources =
    stage.fit?.scope === 'layer' ? stage.fit.sources?.(part) : stage.bind(siteOf(model, layer, part)).sources
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

/** A tensor's values in host memory; everything made on the way is freed. */
function hostOf(make: () => tf.Tensor): HostTensor {
  const tensor = tf.tidy(make)
  const host = { shape: tensor.shape, values: tensor.dataSync() as Float32Array }
  tensor.dispose()
  return { shape: host.shape, values: host.values.slice() }
}

const mapRows = (rows: Rows, change: (t: tf.Tensor) => tf.Tensor): Rows =>
  rows.map((row) => hostOf(() => change(upload(row))))

/** Gradients `[heads, n, dim]` in the shape of the rows a stage receives (merged over heads under a predictor). */
function shapedLike(gradients: HostTensor, target: HostTensor | undefined): HostTensor {
  if (!target || gradients.shape[0] === target.shape[0]) return gradients
  return hostOf(() => tf.expandDims(mergeHeads(upload(gradients)), 0))
}
