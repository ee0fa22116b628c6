/** Binds a compressor's stages to one layer of a model, and refuses what cannot run there. */

import type { Tensor } from '@tensorflow/tfjs-core'
import { artifactOf } from '../artifacts'
import { actsOn, foldSpaces, keySide, NO_SEALING, stagesOn } from '../compose'
import type {
  AnyStage,
  Artifact,
  Bound,
  BudgetStage,
  HostTensor,
  Kind,
  KVCompressor,
  ModelShape,
  Part,
  Picker,
  Ready,
  Recall,
  Resample,
  Scorer,
  Site,
  Space,
  Stage,
  When,
} from '../contract'
import { type Limit, ModelMismatch, UnsupportedStage } from '../errors'
import { siteOf } from '../site'
import { checkCodecs, checkDeclared, checkNeeds } from './check-plan'
import { Codec } from './codec'
import type { LaneShape } from './lane'
import { IN_F32, limitOf } from './limits'
import { hiddenNeeded, queriesNeeded } from './observe'

interface Acting<T> {
  readonly id: string
  readonly when: When
  readonly does: T
}

/** The stages of one layer, bound to it, and what follows from them. */
export interface LayerPlan {
  readonly layer: number
  /** The layer whose rows this one reads, which is itself when it keeps its own. */
  readonly source: number
  /** The last layer before it that keeps rows. Predictors read it. */
  readonly previous: number | null
  readonly score: Acting<Scorer> | null
  readonly budget: BudgetStage | null
  /** What one choice of the scorer holds for. */
  readonly tokenSets: Space['tokenSets']
  /** Which layers decide together in `commit()`: those with the same number; null where a layer decides alone. */
  readonly together: number | null
  /** Whether its rows are stored with the help of other layers' rows, so that all layers must hold the same ones whenever one is read. */
  readonly acrossLayers: boolean
  readonly pick: Acting<Picker> | null
  readonly resample: Resample | null
  readonly recall: Recall | null
  readonly lanes: readonly LaneShape[]
  /** The largest magnitude that store and metadata of each part can hold. */
  readonly largest: Readonly<Record<Part, Limit>>
  /** How many queries to remember from chunk to chunk. */
  readonly ring: number
  /** How many hidden states to remember. */
  readonly hidden: number
  /** Whether a stage acts at the end of the prompt, so that nothing is sealed before. */
  readonly waitsForPrompt: boolean
  /** Whether a transform is fitted on every prompt. */
  readonly fitsPrompt: boolean
}

type Hold = (table: HostTensor) => Tensor

/** Says for each layer whose rows it reads. @throws ModelMismatch when a layer would read a later one, or one that keeps nothing */
export function sourceLayers(model: ModelShape, { compressor, artifacts }: Ready): readonly number[] {
  const stages = compressor.stages.filter((s): s is Stage<'model'> => s.kind === 'model')
  const maps = stages.flatMap((s) => {
    const bound = s.bind(siteOf(model, 0, 'keys'), artifactOf(artifacts, s.id))
    if (bound.transform && !model.transformedBy?.includes(s.id))
      throw new ModelMismatch(
        s.id,
        `it changes the weights, and ${model.name} has its original ones.`,
        'Transform the model first (applyModelStages of @kvloom/engine, or kvloom convert).',
      )
    return bound.sourceLayer ? [{ id: s.id, of: bound.sourceLayer.bind(bound) }] : []
  })
  return Array.from({ length: model.layers }, (_, layer) => {
    const source = maps.reduce((l, map) => map.of(l), layer)
    const again = maps.reduce((l, map) => map.of(l), source)
    if (source > layer || source < 0 || again !== source)
      throw new ModelMismatch(
        maps[0]?.id ?? 'the compressor',
        `layer ${layer} would read layer ${source}, which is later or keeps nothing of its own.`,
        'A layer reads itself or an earlier layer that keeps its rows.',
      )
    return source
  })
}

/** Binds a compressor's stages to a layer. `hold` owns the tables that stages ask for. @throws ModelMismatch, IncompatibleStages, UnsupportedStage */
export function planLayer(
  model: ModelShape,
  { compressor, artifacts }: Ready,
  layer: number,
  sources: readonly number[],
  hold: Hold,
): LayerPlan {
  const source = sources[layer] ?? layer
  const previous = Array.from({ length: layer }, (_, l) => layer - 1 - l).find((l) => sources[l] === l) ?? null
  const base = { layer, source, previous }
  if (source !== layer) return { ...base, ...NOTHING }
  const group = model.queryHeads / model.kvHeads
  if (!Number.isInteger(group))
    throw new ModelMismatch(
      'the cache',
      `${model.queryHeads} query heads over ${model.kvHeads} KV heads.`,
      'Query heads must be a multiple of KV heads.',
    )
  const one = <K extends Kind>(kind: K, part: Part): { stage: Stage<K>; bound: Bound[K] } | null => {
    const [stage] = stagesOn(compressor, kind, layer, part)
    return stage
      ? { stage, bound: stage.bind(siteOf(model, layer, part, hold), artifactOf(artifacts, stage.id)) }
      : null
  }
  const scorer = one('score', 'keys')
  const budget = one('budget', 'keys')
  const pick = one('pick', 'keys')
  const resample = one('resample', 'keys')
  const recall = one('recall', 'keys')
  const windows = compressor.window ?? NO_SEALING
  const lossless = { keys: one('lossless', 'keys')?.bound ?? null, values: one('lossless', 'values')?.bound ?? null }
  const side = keySide(compressor.stages, layer)
  const store = compressor.store ?? 'f16'
  const dropsAlways = foldSpaces(
    compressor.stages.filter((s) => actsOn(s, layer)),
    'keys',
  ).some(({ space }) => space.drops === 'always')
  const lane = (heads: readonly number[]): LaneShape => {
    const codec = (part: Part) => codecOf(model, { compressor, artifacts }, layer, part, heads, hold)
    return {
      heads,
      group,
      keyDim: model.keyDim,
      valueDim: model.valueDim,
      attentionScale: model.attentionScale,
      store,
      windows,
      keyCodec: codec('keys'),
      valueCodec: codec('values'),
      lossless,
      side,
      dropsAlways,
    }
  }
  const all = Array.from({ length: model.kvHeads }, (_, h) => h)
  for (const each of [budget, pick])
    if (each) checkDeclared(each.stage.id, 'ragged', each.stage.facts?.ragged ?? false, each.bound.ragged ?? false)
  const ragged = budget?.bound.ragged || pick?.bound.ragged
  const tokenSets = scorer?.stage.tokenSets ?? 'head'
  const lanes = ragged ? all.map((h) => lane([h])) : [lane(all)]
  const codecs = lanes.flatMap(({ keyCodec, valueCodec }) => [keyCodec, valueCodec])
  checkCodecs(model, compressor, layer, lanes, sources)
  if (recall) checkDeclared(recall.stage.id, 'tier', recall.stage.facts?.tier ?? 'device', recall.bound.tier)
  if (scorer?.bound.replay && scorer.stage.when !== 'promptEnd' && typeof scorer.stage.when !== 'object')
    throw new UnsupportedStage(
      scorer.stage.id,
      'it asks for a replay, and acts neither at the end of a prompt nor every so many tokens.',
    )
  for (const each of [scorer, pick]) if (each) checkNeeds(each.stage.id, each.bound.needs)
  const needs = [scorer?.bound.needs, pick?.bound.needs, ...codecs.map((c) => c?.parts.transform?.needs)]
  const fitsPrompt = codecs.some((c) => c?.fittedOnline)
  const limit = (part: Part, codec: Codec | null | undefined): Limit => {
    const idOf = (kind: Kind): string => stagesOn(compressor, kind, layer, part)[0]?.id ?? kind
    return limitOf(store, codec ?? null, resample?.bound.gain ?? 1, idOf)
  }
  return {
    ...base,
    score: scorer ? { id: scorer.stage.id, when: scorer.stage.when, does: scorer.bound } : null,
    budget: budget?.bound ?? null,
    tokenSets,
    together:
      scorer && (tokenSets === 'model' || budget?.bound.over === 'model')
        ? compressor.stages.indexOf(scorer.stage as AnyStage)
        : null,
    acrossLayers: codecs.some((codec) => codec?.parts.predictor || (codec?.parts.layers.length ?? 1) > 1),
    pick: pick ? { id: pick.stage.id, when: pick.stage.when, does: pick.bound } : null,
    resample: resample?.bound ?? null,
    recall: recall?.bound ?? null,
    lanes,
    largest: { keys: limit('keys', lanes[0]?.keyCodec), values: limit('values', lanes[0]?.valueCodec) },
    ring: Math.max(0, ...needs.map((n) => queriesNeeded(n ?? {}))),
    hidden: Math.max(0, ...needs.map((n) => hiddenNeeded(n ?? {}))),
    waitsForPrompt: fitsPrompt || (scorer?.stage.when ?? pick?.stage.when) === 'promptEnd',
    fitsPrompt,
  }
}

const NOTHING = {
  score: null,
  budget: null,
  tokenSets: 'head',
  together: null,
  acrossLayers: false,
  pick: null,
  resample: null,
  recall: null,
  lanes: [],
  largest: { keys: IN_F32, values: IN_F32 },
  ring: 0,
  hidden: 0,
  waitsForPrompt: false,
  fitsPrompt: false,
} as const

/** Makes the codec of one part from its transform, predictor and quantizer, each bound to the rows that it receives; null when no stage seals. */
export function codecOf(
  model: ModelShape,
  { compressor, artifacts }: { readonly compressor: KVCompressor; readonly artifacts: readonly Artifact[] },
  layer: number,
  part: Part,
  heads: readonly number[],
  hold: Hold,
  /** Says which stages to bind. Calibration binds those before the one that it fits. */
  until: (stage: Stage) => boolean = () => true,
): Codec | null {
  const site = { ...siteOf(model, layer, part, hold), firstHead: heads[0] ?? 0, heads: heads.length }
  const bind = <K extends Kind>(kind: K, at: Site, of = layer): Bound[K] | null => {
    const [stage] = stagesOn(compressor, kind, of, part)
    return stage && until(stage as unknown as Stage) ? stage.bind(at, artifactOf(artifacts, stage.id)) : null
  }
  const bound = bind('transform', site)
  // An empty list says that the transform joins layers, and that this layer belongs to no group.
  const transform = bound?.layers?.length === 0 ? null : bound
  const main = transform?.main ?? { heads: site.heads, dim: site.dim }
  // The last layer of a group seals for all of them.
  const at = { ...site, layer: transform?.layers?.at(-1) ?? layer }
  const predictor = bind('predict', { ...at, ...main })
  const flat = { heads: 1, dim: main.heads * main.dim }
  const quantizer = bind('quantize', { ...at, ...(predictor ? flat : main) })
  // Layers of a group share pages, and some of them may have another lossless stage or none.
  const lossless = bind('lossless', at, at.layer)
  if (!transform && !predictor && !quantizer) return null
  const layers = transform?.layers ?? [layer]
  return new Codec({
    heads: site.heads,
    dim: site.dim,
    store: compressor.store ?? 'f16',
    transform,
    predictor,
    quantizer,
    lossless,
    quantizerId: stagesOn(compressor, 'quantize', layer, part)[0]?.id ?? '',
    layers,
    member: Math.max(0, layers.indexOf(layer)),
  })
}
