/** Refuses what no stage can see alone: stages that cannot meet in one layer, and windows that a stage cannot work with. It needs no model. */
import {
  type AnyStage,
  DROPPING,
  type Json,
  type Kind,
  type Part,
  SEALING,
  type Window,
  type Windows,
} from './contract'
import { ADD_SCORER, type Cure, oneByOne, oneOrLayers, unfitted } from './cures'
import { IncompatibleStages, WindowError } from './errors'
import { foldSpaces, methodOf, nameOf } from './fold'
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
      nameOf(rewriting),
      nameOf(predictor),
      `${predictor.id} predicts rows from those of the layer before, and ${rewriting.id} rewrites its rows.`,
      [
        { kind: 'leaveOut', anyOf: [methodOf(rewriting), methodOf(predictor)] },
        {
          kind: 'replace',
          method: methodOf(rewriting),
          what: 'a method that drops tokens by position',
          methods: ['streaming-llm'],
        },
      ],
    )
  const partial = stages.find((s) => DROPPING.includes(s.kind) && (s.on?.layers || s.on?.except?.length))
  if (predictor && partial)
    throw new IncompatibleStages(
      nameOf(partial),
      nameOf(predictor),
      `${predictor.id} predicts the rows of a layer from those of the layer before, and ${partial.id} drops tokens in some layers only.`,
      [
        {
          kind: 'replace',
          method: methodOf(partial),
          what: 'a method that drops the same tokens in all layers, without onLayers() around it,',
          methods: ['streaming-llm'],
        },
        {
          kind: 'wrap',
          why: 'let it act on all layers alike',
          combinator: 'sharedTokens',
          args: ['model'],
          around: methodOf(partial),
        },
      ],
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
    const one = plain(mergedWindow([windows.keys, windows.values], groupsOf(stages)))
    throw new WindowError(
      `${predictor.id} predicts rows from rows that are sealed at the same time, and keys and values have different windows.`,
      { ...aWindow({ keys: one, values: one }), why: 'give both the same' },
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
    { ...aWindow({ sinks: from }), why: 'keep its sinks exact' },
  )
}

/** How many rows the quantizers among some stages seal together. */
export const groupsOf = (stages: readonly AnyStage[], part?: Part): readonly number[] =>
  stages
    .filter((s) => s.kind === 'quantize' && (part === undefined || (s.on?.part ?? part) === part))
    .map((s) => s.facts?.rowsPerGroup ?? 1)

const plain = ({ recent, block, drain }: Window): Json => ({ recent, block, drain })

const aWindow = (settings: Readonly<Record<string, Json>>): Cure & { readonly kind: 'wrap' } => ({
  kind: 'wrap',
  why: 'use another window',
  combinator: 'window',
  settings,
  around: null,
})

function checkPick(stages: readonly AnyStage[]): void {
  const scorer = stages.find((s) => s.kind === 'score')
  const ragged = stages.find((s) => s.facts?.ragged)
  if (ragged && scorer?.tokenSets !== undefined && scorer.tokenSets !== 'head')
    throw new IncompatibleStages(
      nameOf(scorer),
      nameOf(ragged),
      `sharedTokens() lets ${scorer.id} choose one set of tokens for all heads, and ${ragged.id} leaves heads with different numbers of them.`,
      { kind: 'leaveOut', anyOf: [methodOf(ragged), 'sharedTokens'] },
    )
  const pick = stages.find((s) => s.kind === 'pick')
  if (!pick) return
  const by = pick.facts?.by ?? 'scores'
  const budget = stages.find((s) => s.kind === 'budget')
  if (budget && by === 'positions')
    throw new IncompatibleStages(
      nameOf(budget),
      nameOf(pick),
      `${budget.id} shares out a budget by scores, and ${pick.id} picks by position.`,
      { kind: 'leaveOut', anyOf: [methodOf(budget)] },
    )
  if (scorer && by === 'positions')
    throw new IncompatibleStages(
      nameOf(scorer),
      nameOf(pick),
      `${pick.id} picks by position and would ignore the scores of ${scorer.id}.`,
      oneOrLayers(methodOf(scorer), methodOf(pick)),
    )
  if (!scorer && by === 'scores')
    throw new IncompatibleStages(null, nameOf(pick), `${pick.id} picks by score, and nothing scores.`, ADD_SCORER)
}

/** @param stages those that act on this part of one layer */
function checkPart(stages: readonly AnyStage[], part: Part): void {
  const of = (kind: Kind) => stages.find((s) => s.kind === kind)
  const [transform, predictor, quantizer, recall] = [of('transform'), of('predict'), of('quantize'), of('recall')]
  const group = quantizer?.facts?.rowsPerGroup ?? 1
  const spaces = foldSpaces(stages, part)
  const learner = [predictor, quantizer].find((s) => s?.fit)
  if (transform?.when === 'promptEnd' && learner)
    throw new IncompatibleStages(
      nameOf(transform),
      nameOf(learner),
      `${learner.id} is fitted once, and its rows would come from ${transform.id}, which is fitted anew on every prompt.`,
      [
        unfitted(methodOf(learner)),
        { kind: 'separate', by: 'layers', methods: [methodOf(transform), methodOf(learner)] },
      ],
    )
  const dropping = spaces.find(({ space }) => space.drops === 'always')?.stage
  if (predictor && quantizer && group > 1 && dropping)
    throw new IncompatibleStages(
      nameOf(dropping),
      nameOf(quantizer),
      `${predictor.id} needs every layer to hold the same rows, and ${quantizer.id} keeps dropped rows until their block is empty.`,
      [
        oneByOne(methodOf(quantizer)),
        { kind: 'advice', text: `let ${methodOf(dropping)} drop tokens at the end of the prompt only` },
      ],
    )
  const weighing = [predictor, quantizer].find((s) => s?.fit?.scope === 'layer' && s.fit.gradients)
  if (transform && weighing)
    throw new IncompatibleStages(
      nameOf(transform),
      nameOf(weighing),
      `${weighing.id} is fitted with gradients of the loss by the model's own rows, and ${transform.id} makes other rows of them.`,
      withoutGradients(weighing),
    )
  if (quantizer) checkChannels(quantizer, spaces)
  // A quantizer of several tokens and a transform over several layers seal blocks, whose rows can only be freed together.
  const joins = spaces.find(({ stage, space }) => stage.kind === 'transform' && space.layerGroup > 1)?.stage
  const blocks = quantizer && group > 1 ? quantizer : joins
  if (!blocks) return
  if (recall?.facts?.tier === 'host')
    throw new IncompatibleStages(
      nameOf(blocks),
      nameOf(recall),
      `rows that were sealed together cannot be fetched one by one, as ${recall.id} does from host memory.`,
      [{ kind: 'options', method: methodOf(recall), options: { tier: 'device' } }, ...instead(blocks)],
    )
  // Rows that are dropped here and there leave blocks with few live rows, which would hold many times what these need.
  const scattering = stages.find((s) => (s.kind === 'score' && s.when !== 'promptEnd') || s.facts?.scatters)
  if (scattering)
    throw new IncompatibleStages(
      nameOf(scattering),
      nameOf(blocks),
      `${scattering.id} drops rows one by one after the prompt too, and ${blocks.id} seals blocks of rows, which are freed whole.`,
      [
        ...instead(blocks),
        { kind: 'separate', by: 'layers', methods: [methodOf(scattering), methodOf(blocks)] },
        { kind: 'advice', text: `let ${methodOf(scattering)} act at the end of the prompt only` },
      ],
    )
}

function withoutGradients(stage: AnyStage): readonly Cure[] {
  const { gradients } = stage.fit?.scope === 'layer' ? stage.fit : {}
  const options: Cure[] =
    typeof gradients === 'object' ? [{ kind: 'options', method: methodOf(stage), options: gradients.without }] : []
  // A method that is made of several stages hands its options on as it likes.
  return [...(stage.method === undefined ? options : []), unfitted(methodOf(stage))]
}

/** A quantizer in the place of one that seals several rows together; a transform of blocks has no such substitute. */
const instead = (blocks: AnyStage): readonly Cure[] => (blocks.kind === 'quantize' ? [oneByOne(methodOf(blocks))] : [])

/** Channels that stages before it fix by their options alone; what the model or a fit decides is checked when it is known. */
function checkChannels(stage: AnyStage, spaces: ReturnType<typeof foldSpaces>): void {
  const { id, facts } = stage
  const earlier = spaces.slice(
    0,
    spaces.findIndex((step) => step.stage === stage),
  )
  const { dim = null, heads } = earlier.at(-1)?.space ?? {}
  const by = earlier.filter(({ space }, i) => space.dim !== (earlier[i - 1]?.space.dim ?? null)).at(-1)?.stage
  if (dim === null || !by || !facts?.channels) return
  const { multipleOf, of } = facts.channels
  if (dim % multipleOf === 0 || (of === 'token' && heads === 'each')) return
  throw new IncompatibleStages(
    nameOf(by),
    nameOf(stage),
    `rows behind ${by.id} have ${dim} channels, and ${id} takes a multiple of ${multipleOf}.`,
    [
      { kind: 'advice', text: `give ${methodOf(by)} ${multipleOf * Math.ceil(dim / multipleOf)} channels` },
      {
        kind: 'replace',
        method: methodOf(stage),
        what: 'a quantizer with a group size of its own',
        methods: ['kivi', 'higgs'],
      },
    ],
  )
}

function checkGroups({ recent, block, drain }: Window, id: string, rowsPerGroup: number, part: Part): void {
  if (recent === Number.POSITIVE_INFINITY) return
  if (block < rowsPerGroup)
    throw new WindowError(
      `The ${part} window seals blocks of ${block} rows, smaller than the ${rowsPerGroup} rows that ${id} quantizes together.`,
      aWindow({ [part]: { block: rowsPerGroup } }),
    )
  if (drain === 'blocks' && block % rowsPerGroup !== 0)
    throw new WindowError(
      `The ${part} window seals blocks of ${block} rows, no multiple of the ${rowsPerGroup} rows that ${id} quantizes together.`,
      aWindow({ [part]: { block: Math.ceil(block / rowsPerGroup) * rowsPerGroup } }),
    )
}
