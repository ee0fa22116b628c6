/** Refuses what no stage can see alone: stages that cannot meet in one layer, and windows that a stage cannot work with. It needs no model. */
import {
  type AnyStage,
  DROPPING,
  type Kind,
  type Part,
  SEALING,
  type Space,
  type Window,
  type Windows,
} from './contract'
import { IncompatibleStages, WindowError } from './errors'
import { foldSpaces, modelSpace } from './fold'
import { mergedWindow } from './merge-zones'

const PARTS: readonly Part[] = ['keys', 'values']

/** @param stages those that act on one layer. @throws IncompatibleStages */
export function checkPairs(stages: readonly AnyStage[]): void {
  checkPick(stages)
  for (const part of PARTS) {
    checkPart(
      stages.filter((s) => (s.on?.part ?? part) === part),
      part,
    )
  }
}

/**
 * What no layer can see alone: a predictor reads the rows of earlier layers, so a stage that drops tokens has to act on all of them.
 * @param stages all of a compressor. @throws IncompatibleStages
 */
export function checkAcrossLayers(stages: readonly AnyStage[]): void {
  const predictor = stages.find((s) => s.kind === 'predict')
  const rewriting = stages.find((s) => s.kind === 'resample')
  if (predictor && rewriting)
    throw new IncompatibleStages(
      rewriting.id,
      predictor.id,
      `${predictor.id} predicts rows from those of the layer before, and ${rewriting.id} rewrites its rows.`,
      'Keep one of them, or drop tokens by position instead (streaming-llm).',
    )
  const partial = stages.find((s) => DROPPING.includes(s.kind) && (s.on?.layers || s.on?.except?.length))
  if (predictor && partial)
    throw new IncompatibleStages(
      partial.id,
      predictor.id,
      `${predictor.id} predicts the rows of a layer from those of the layer before, and ${partial.id} drops tokens in some layers only.`,
      `Let ${partial.id} act on all layers, and drop the same tokens in each (streaming-llm, sharedTokens).`,
    )
}

/** @param stages those that act on one layer. @throws WindowError when one of them cannot work with the windows */
export function checkZones(stages: readonly AnyStage[], windows: Windows): void {
  checkNumbering(stages, windows)
  for (const part of PARTS)
    for (const { id, kind, on, facts } of stages)
      if (kind === 'quantize' && (on?.part ?? part) === part)
        checkGroups(windows[part], id, facts?.rowsPerGroup ?? 1, part)
  const predictor = stages.find((s) => s.kind === 'predict')
  if (predictor && JSON.stringify(windows.keys) !== JSON.stringify(windows.values)) {
    const one = windowText(mergedWindow([windows.keys, windows.values], groupsOf(stages)))
    throw new WindowError(
      `${predictor.id} predicts rows from rows that are sealed at the same time, and keys and values have different windows.`,
      `Give both the same: window({ keys: ${one}, values: ${one} }, ...).`,
    )
  }
}

/** Rows that are numbered anew behind others cannot be sealed together with these: one record has one position shift. */
function checkNumbering(stages: readonly AnyStage[], windows: Windows): void {
  const from = Math.max(0, ...stages.map(({ facts }) => facts?.renumbersFrom ?? 0))
  const seals = stages.some(({ kind }) => SEALING.some((sealing) => sealing === kind))
  const finite = PARTS.some((part) => windows[part].recent !== Number.POSITIVE_INFINITY)
  if (!seals || !finite || windows.sinks >= from) return
  const pick = stages.find(({ facts }) => facts?.renumbersFrom === from)
  throw new WindowError(
    `${pick?.id} numbers rows anew behind its first ${from}, and the window seals rows from number ${windows.sinks} on.`,
    `Keep its sinks exact: window({ sinks: ${from} }, ...).`,
  )
}

/** How many rows the quantizers among some stages seal together. */
export const groupsOf = (stages: readonly AnyStage[], part?: Part): readonly number[] =>
  stages
    .filter((s) => s.kind === 'quantize' && (part === undefined || (s.on?.part ?? part) === part))
    .map((s) => s.facts?.rowsPerGroup ?? 1)

const windowText = ({ recent, block, drain }: Window): string =>
  `{ recent: ${recent}, block: ${block}, drain: '${drain}' }`

function checkPick(stages: readonly AnyStage[]): void {
  const scorer = stages.find((s) => s.kind === 'score')
  const ragged = stages.find((s) => s.facts?.ragged)
  if (ragged && scorer?.tokenSets !== undefined && scorer.tokenSets !== 'head')
    throw new IncompatibleStages(
      scorer.id,
      ragged.id,
      `sharedTokens() lets ${scorer.id} choose one set of tokens for all heads, and ${ragged.id} leaves heads with different numbers of them.`,
      `Leave out ${ragged.id}, or sharedTokens().`,
    )
  const pick = stages.find((s) => s.kind === 'pick')
  if (!pick) return
  const by = pick.facts?.by ?? 'scores'
  if (scorer && by === 'positions')
    throw new IncompatibleStages(
      scorer.id,
      pick.id,
      `${pick.id} picks by position and would ignore the scores of ${scorer.id}.`,
      'Keep one of them, or give them different layers with onLayers().',
    )
  if (!scorer && by === 'scores')
    throw new IncompatibleStages(
      null,
      pick.id,
      `${pick.id} picks by score, and nothing scores.`,
      'Add a scorer: compose(snapkv(), ...).',
    )
}

/** @param stages those that act on this part of one layer */
function checkPart(stages: readonly AnyStage[], part: Part): void {
  const of = (kind: Kind) => stages.find((s) => s.kind === kind)
  const [transform, predictor, quantizer, recall] = [of('transform'), of('predict'), of('quantize'), of('recall')]
  const group = quantizer?.facts?.rowsPerGroup ?? 1
  const spaces = foldSpaces(stages, part)
  const before = (stage: AnyStage) => {
    const last = spaces[spaces.findIndex((step) => step.stage === stage) - 1]
    return { space: last?.space ?? modelSpace(part), by: last?.stage.id ?? 'the model' }
  }
  const learner = [predictor, quantizer].find((s) => s?.fit)
  if (transform?.when === 'promptEnd' && learner)
    throw new IncompatibleStages(
      transform.id,
      learner.id,
      `${learner.id} is fitted once, and its rows would come from ${transform.id}, which is fitted anew on every prompt.`,
      'Use a quantizer that needs no calibration (kivi, higgs), or give them different layers with onLayers().',
    )
  if (predictor && quantizer && group > 1 && before(predictor).space.drops === 'always')
    throw new IncompatibleStages(
      before(predictor).by,
      quantizer.id,
      `${predictor.id} needs every layer to hold the same rows, and ${quantizer.id} keeps dropped rows until their block is empty.`,
      'Use a quantizer whose rows go one by one (higgs, coupled-quantization), or drop tokens at the end of the prompt only.',
    )
  const weighing = [predictor, quantizer].find((s) => s?.fit?.scope === 'layer' && s.fit.gradients)
  if (transform && weighing)
    throw new IncompatibleStages(
      transform.id,
      weighing.id,
      `${weighing.id} is fitted with gradients of the loss by the model's own rows, and ${transform.id} makes other rows of them.`,
      withoutGradients(weighing),
    )
  if (quantizer) checkChannels(quantizer, before(quantizer))
  // A quantizer of several tokens and a transform over several layers seal blocks, whose rows can only be freed together.
  const joins = spaces.find(({ stage, space }) => stage.kind === 'transform' && space.layerGroup > 1)?.stage
  const blocks = quantizer && group > 1 ? quantizer : joins
  if (!blocks) return
  if (recall?.facts?.tier === 'host')
    throw new IncompatibleStages(
      blocks.id,
      recall.id,
      `rows that were sealed together cannot be fetched one by one, as ${recall.id} does from host memory.`,
      "Use tier: 'device', or a quantizer whose rows go one by one (higgs, coupled-quantization).",
    )
  // Rows that are dropped here and there leave blocks with few live rows, which would hold many times what these need.
  const scattering = stages.find((s) => (s.kind === 'score' && s.when !== 'promptEnd') || s.facts?.scatters)
  if (scattering)
    throw new IncompatibleStages(
      scattering.id,
      blocks.id,
      `${scattering.id} drops rows one by one after the prompt too, and ${blocks.id} seals blocks of rows, which are freed whole.`,
      'Let it act at the end of the prompt only, or use a quantizer whose rows go one by one (higgs, coupled-quantization, block-formats).',
    )
}

function withoutGradients({ id, fit }: AnyStage): string {
  const { without } = (fit?.scope === 'layer' && typeof fit.gradients === 'object' && fit.gradients) || {}
  const options = Object.entries(without ?? {}).map(([name, value]) => `${name}: ${JSON.stringify(value)}`)
  return `Use ${options.length > 0 ? `${id}({ ${options.join(', ')} }), or ` : ''}a quantizer that needs no calibration (kivi, higgs).`
}

/** Channels that stages before it fix by their options alone; what the model or a fit decides is checked when it is known. */
function checkChannels({ id, facts }: AnyStage, before: { readonly space: Space; readonly by: string }): void {
  const { dim, heads } = before.space
  if (dim === null || !facts?.channels) return
  const { multipleOf, of } = facts.channels
  if (dim % multipleOf === 0 || (of === 'token' && heads === 'each')) return
  throw new IncompatibleStages(
    before.by,
    id,
    `rows behind ${before.by} have ${dim} channels, and ${id} takes a multiple of ${multipleOf}.`,
    `Give ${before.by} ${multipleOf * Math.ceil(dim / multipleOf)} channels, or use a quantizer with another group size (kivi, higgs).`,
  )
}

function checkGroups({ recent, block, drain }: Window, id: string, rowsPerGroup: number, part: Part): void {
  if (recent === Number.POSITIVE_INFINITY) return
  if (block < rowsPerGroup)
    throw new WindowError(
      `The ${part} window seals blocks of ${block} rows, smaller than the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use window({ ${part}: { block: ${rowsPerGroup} } }, ...) or a multiple.`,
    )
  if (drain === 'blocks' && block % rowsPerGroup !== 0)
    throw new WindowError(
      `The ${part} window seals blocks of ${block} rows, no multiple of the ${rowsPerGroup} rows that ${id} quantizes together.`,
      `Use window({ ${part}: { block: ${Math.ceil(block / rowsPerGroup) * rowsPerGroup} } }, ...).`,
    )
}
