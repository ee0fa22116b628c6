/** Binds a compressor's stages to one layer of a model, and refuses what cannot run there. */
import { foldSpace, NO_SEALING, stagesOn } from '../compose'
import type {
  Artifact,
  Bound,
  BudgetStage,
  Kind,
  KVCompressor,
  ModelShape,
  Part,
  Pick,
  Quantizer,
  Ready,
  Scorer,
  Site,
  Stage,
  When,
} from '../contract'
import { IncompatibleStages, ModelMismatch, UnsupportedStage, WindowError } from '../errors'
import type { LaneShape } from './lane'
import { queriesNeeded } from './observe'

interface Acting<T> {
  readonly id: string
  readonly when: When
  readonly does: T
}

/** The stages of one layer, bound to it. */
export interface LayerPlan {
  readonly layer: number
  readonly score: Acting<Scorer> | null
  readonly budget: BudgetStage | null
  readonly pick: Acting<Pick> | null
  readonly lanes: readonly LaneShape[]
  /** Largest magnitude that store and metadata of each part can hold. */
  readonly largest: Readonly<Record<Part, number>>
  /** Queries to remember from chunk to chunk. */
  readonly ring: number
}

/** Kinds this cache runs; the others are refused when it is opened. */
const RUNS: readonly Kind[] = ['score', 'budget', 'pick', 'quantize']

/** Binds a compressor's stages to a layer. @throws ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError */
export function planLayer(model: ModelShape, { compressor, artifacts }: Ready, layer: number): LayerPlan {
  for (const stage of compressor.stages)
    if (!RUNS.includes(stage.kind))
      throw new UnsupportedStage(
        stage.id,
        `stages of kind "${stage.kind}" are described by the contract, but this cache runs only ${RUNS.join(', ')}.`,
      )
  const site = (part: Part): Site => ({
    layer,
    part,
    model,
    heads: model.kvHeads,
    dim: part === 'keys' ? model.keyDim : model.valueDim,
  })
  const one = <K extends Kind>(kind: K, part: Part): { stage: Stage<K>; bound: Bound[K] } | null => {
    const [stage] = stagesOn(compressor, kind, layer, part)
    return stage ? { stage, bound: stage.bind(site(part), artifactOf(artifacts, stage.id)) } : null
  }
  const scorer = one('score', 'keys')
  const budget = one('budget', 'keys')
  const pick = one('pick', 'keys')
  const keyQuantizer = one('quantize', 'keys')
  const valueQuantizer = one('quantize', 'values')
  if (pick && scorer && pick.bound.by === 'positions')
    throw new IncompatibleStages(
      scorer.stage.id,
      pick.stage.id,
      `${pick.stage.id} picks by position and would ignore the scores of ${scorer.stage.id}.`,
      'Keep one of them, or give them different layers with onLayers().',
    )
  if (pick && !scorer && pick.bound.by === 'scores')
    throw new IncompatibleStages(
      'none',
      pick.stage.id,
      `${pick.stage.id} picks by score, and nothing scores.`,
      'Add a scorer, for example snapkv().',
    )
  for (const q of [keyQuantizer, valueQuantizer])
    if (q) checkWindow(compressor, q.stage.id, q.bound.rowsPerGroup, q === keyQuantizer ? 'keys' : 'values')
  for (const part of ['keys', 'values'] as const) {
    const space = foldSpace(
      compressor.stages.filter((s) => s.on?.layers?.includes(layer) ?? true),
      part,
    )
    if (part === 'keys' && keyQuantizer && space.rope === 'pre' && model.rope)
      throw new UnsupportedStage(keyQuantizer.stage.id, 'it stores keys before RoPE, and this cache stores them after.')
  }
  const group = model.queryHeads / model.kvHeads
  if (!Number.isInteger(group))
    throw new ModelMismatch(
      'the cache',
      `${model.queryHeads} query heads over ${model.kvHeads} KV heads.`,
      'Query heads must be a multiple of KV heads.',
    )
  const windows = compressor.window ?? NO_SEALING
  const lane = (heads: readonly number[]): LaneShape => ({
    heads,
    group,
    keyDim: model.keyDim,
    valueDim: model.valueDim,
    attentionScale: model.attentionScale,
    store: compressor.store ?? 'f16',
    windows,
    keyQuantizer: keyQuantizer?.bound ?? null,
    valueQuantizer: valueQuantizer?.bound ?? null,
  })
  const all = Array.from({ length: model.kvHeads }, (_, h) => h)
  return {
    layer,
    score: scorer ? { id: scorer.stage.id, when: scorer.stage.when, does: scorer.bound } : null,
    budget: budget?.bound ?? null,
    pick: pick ? { id: pick.stage.id, when: pick.stage.when, does: pick.bound } : null,
    lanes: budget?.bound.ragged ? all.map((h) => lane([h])) : [lane(all)],
    largest: { keys: largest(compressor, keyQuantizer?.bound), values: largest(compressor, valueQuantizer?.bound) },
    ring: Math.max(queriesNeeded(scorer?.bound.needs ?? {}), queriesNeeded(pick?.bound.needs ?? {})),
  }
}

const LARGEST_F16 = 65504
const LARGEST_F32 = 3.4028234663852886e38

const largest = (c: KVCompressor, quantizer: Quantizer | undefined): number =>
  Math.min(c.store === 'f32' ? LARGEST_F32 : LARGEST_F16, quantizer?.largest ?? LARGEST_F32)

const artifactOf = (artifacts: readonly Artifact[], id: string): Artifact | undefined =>
  artifacts.find((a) => a.stage === id)

function checkWindow(c: KVCompressor, id: string, rowsPerGroup: number, part: Part): void {
  const w = (c.window ?? NO_SEALING)[part]
  if (w.recent === Number.POSITIVE_INFINITY) return
  if (w.block < rowsPerGroup)
    throw new WindowError(
      `The ${part} window seals blocks of ${w.block} rows, smaller than the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use window({ ${part}: { block: ${rowsPerGroup} } }, ...) or a multiple.`,
    )
  if (w.drain === 'blocks' && w.block % rowsPerGroup !== 0)
    throw new WindowError(
      `The ${part} window seals blocks of ${w.block} rows, no multiple of the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use a block of ${Math.ceil(w.block / rowsPerGroup) * rowsPerGroup} rows.`,
    )
}
