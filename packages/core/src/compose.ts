/**
 * Mixes compressors: joins their stages, orders them by kind, and hands the space through every stage. An illegal mix is refused here, in
 * one sentence.
 */

import { checkChange, checkCompressor, checkLayers, type WindowChange } from './arguments'
import type { AnyStage, Kind, KVCompressor, MethodCard, Part, Window } from './contract'
import { KINDS } from './contract'
import { ADD_SCORER, type Cure, oneOrLayers } from './cures'
import { IncompatibleStages, OptionError, WindowError } from './errors'
import { actsOn, foldSpace, goesByScores, methodOf, nameOf, overlap } from './fold'
import { checkAcrossLayers, checkPairs, checkZones } from './legal'
import { mergeWindows, NO_SEALING, ownRowsOf, singleStore } from './merge-zones'
import { refuseUnknown } from './options'

export { actsOn, foldSpace, foldSpaces, keySide, modelSpace, stagesOn } from './fold'
export { NO_SEALING } from './merge-zones'

/** Kinds of which one part of one layer can hold only one. */
const SINGLE: readonly Kind[] = KINDS.filter((kind) => kind !== 'model')
/** Kinds whose decision covers keys and values together. */
const WHOLE: readonly Kind[] = ['model', 'score', 'budget', 'pick', 'resample', 'recall']

/**
 * Mixes compressors into one. Stages are ordered by kind, whatever the order of the arguments; within one kind that order is kept.
 * @throws IncompatibleStages naming both stages and the cure.
 */
export function compose(...parts: readonly KVCompressor[]): KVCompressor {
  for (const part of parts) checkCompressor('compose', part)
  const [first] = parts
  if (!first)
    throw new OptionError('compose', 'parts', [], 'at least one compressor', 'Use none() for an uncompressed cache.')
  if (parts.length === 1) return checked(first)
  const stages = KINDS.flatMap((kind) => parts.flatMap((p) => p.stages.filter((s) => s.kind === kind)))
  const store = singleStore(parts)
  // Stages come before windows: where stages cannot meet, a cure for the windows would not help.
  checkStages(stages)
  const zones = mergeWindows(parts)
  return checked({
    card: mixCard(parts),
    stages,
    ...zones,
    ...(store ? { store } : {}),
    ...ownRowsOf(parts),
  })
}

/** Overrides how many rows stay exact: `window({ sinks: 4, keys: { recent: 64 } }, kivi())`. */
export function window(change: WindowChange, compressor: KVCompressor): KVCompressor {
  checkChange(change)
  checkCompressor('window', compressor)
  const base = compressor.window ?? NO_SEALING
  const { mergedWindows, ...rest } = compressor
  const still = (mergedWindows ?? []).filter(({ part }) => change[part] === undefined)
  return checked({
    ...rest,
    ...(still.length > 0 ? { mergedWindows: still } : {}),
    window: {
      sinks: change.sinks ?? base.sinks,
      keys: { ...base.keys, ...change.keys },
      values: { ...base.values, ...change.values },
    },
    ...(change.store ? { store: change.store } : {}),
  })
}

/**
 * Takes one compressor for keys and another for values. Stages that decide over both parts (evictions, models) are refused, and so is a
 * compressor that does not act on the part it is given as.
 * @throws IncompatibleStages, OptionError
 */
export function split(o: { readonly keys: KVCompressor; readonly values: KVCompressor }): KVCompressor {
  refuseUnknown('split', o, ['keys', 'values'])
  for (const part of ['keys', 'values'] as const) checkCompressor(`split, ${part}`, o[part])
  const restrict = (c: KVCompressor, part: Part): AnyStage[] => {
    const acting = c.stages.filter((s) => s.on?.part === undefined || s.on.part === part)
    const [idle] = c.stages
    // A compressor without stages (none()) leaves its part as it is on purpose; one with stages would be named and do nothing.
    if (idle && acting.length === 0)
      throw new IncompatibleStages(
        'split',
        idle.id,
        `${c.card.name} acts on ${OTHER[part]} alone, and was given as ${part}.`,
        { kind: 'advice', text: `give it as ${OTHER[part]}, and none as ${part}` },
      )
    return acting.map((s) => {
      if (WHOLE.includes(s.kind))
        throw new IncompatibleStages('split', s.id, `${s.id} (${s.kind}) decides over keys and values together.`, {
          kind: 'outside',
          combinator: 'split',
          method: methodOf(s),
        })
      return { ...s, on: { ...s.on, part } } as AnyStage
    })
  }
  const stages = [...restrict(o.keys, 'keys'), ...restrict(o.values, 'values')]
  checkStages(stages)
  const kw = o.keys.window ?? NO_SEALING
  const vw = o.values.window ?? NO_SEALING
  const store = singleStore([o.keys, o.values])
  const merged = (['keys', 'values'] as const).flatMap((part) =>
    (o[part].mergedWindows ?? []).filter((m) => m.part === part),
  )
  return checked({
    card: { ...mixCard([o.keys, o.values]), name: `split(keys=${o.keys.card.name}, values=${o.values.card.name})` },
    stages: KINDS.flatMap((kind) => stages.filter((s) => s.kind === kind)),
    window: { sinks: Math.max(kw.sinks, vw.sinks), keys: kw.keys, values: vw.values },
    ...(merged.length > 0 ? { mergedWindows: merged } : {}),
    ...(store ? { store } : {}),
    ...ownRowsOf([o.keys, o.values]),
  })
}

const OTHER = { keys: 'values', values: 'keys' } as const

/** Restricts a compressor to some layers; the others stay uncompressed unless another part covers them. */
export function onLayers(layers: readonly number[], compressor: KVCompressor): KVCompressor {
  checkLayers('onLayers', layers)
  checkCompressor('onLayers', compressor)
  const keep = (s: AnyStage): readonly number[] =>
    s.on?.layers ? s.on.layers.filter((l) => layers.includes(l)) : layers
  return checked({
    ...compressor,
    card: { ...compressor.card, name: `${compressor.card.name}@layers[${layers.join(',')}]` },
    stages: compressor.stages.map((s) => ({ ...s, on: { ...s.on, layers: keep(s) } }) as AnyStage),
  })
}

/** Leaves some layers (of a model with `total` layers) uncompressed. */
export function protectLayers(layers: readonly number[], total: number, compressor: KVCompressor): KVCompressor {
  checkLayers('protectLayers', layers)
  if (!Number.isInteger(total) || total < 1)
    throw new OptionError(
      'protectLayers',
      'total',
      total,
      'the number of layers of the model',
      'Or use exceptLayers().',
    )
  if (layers.some((l) => l >= total))
    throw new OptionError('protectLayers', 'layers', layers, `layers from 0 to ${total - 1}, of ${total}`)
  return onLayers(
    Array.from({ length: total }, (_, l) => l).filter((l) => !layers.includes(l)),
    compressor,
  )
}

/** Restricts a compressor to all layers but some, whatever number of layers the model has. */
export function exceptLayers(layers: readonly number[], compressor: KVCompressor): KVCompressor {
  checkLayers('exceptLayers', layers)
  checkCompressor('exceptLayers', compressor)
  return checked({
    ...compressor,
    card: { ...compressor.card, name: `${compressor.card.name}@except[${layers.join(',')}]` },
    stages: compressor.stages.map(
      (s) => ({ ...s, on: { ...s.on, except: [...new Set([...(s.on?.except ?? []), ...layers])] } }) as AnyStage,
    ),
  })
}

/** Sets what a step sees of the rows that it brings itself: the originals, or what is stored of them. */
export function ownRows(which: 'exact' | 'stored', compressor: KVCompressor): KVCompressor {
  if (which !== 'exact' && which !== 'stored') throw new OptionError('ownRows', 'which', which, '"exact", "stored"')
  checkCompressor('ownRows', compressor)
  return checked({ ...compressor, ownRows: which })
}

function checked(c: KVCompressor): KVCompressor {
  checkStages(c.stages)
  if (c.window) {
    const { sinks } = c.window
    if (!Number.isSafeInteger(sinks) || sinks < 0)
      throw new WindowError(`The window keeps ${sinks} sinks.`, 'Give a whole number from 0.')
    for (const part of ['keys', 'values'] as const) checkWindow(part, c.window[part])
  }
  for (const set of stageSets(c.stages)) checkZones(set, c.window ?? NO_SEALING)
  return Object.freeze(c)
}

/** Whether every layer's stages can follow each other. @throws IncompatibleStages */
function checkStages(stages: readonly AnyStage[]): void {
  refuseTwins(stages)
  checkAcrossLayers(stages)
  const sets = stageSets(stages)
  for (const set of sets) for (const part of ['keys', 'values'] as const) foldSpace(set, part)
  for (const set of sets) checkPairs(set)
  // Last, since a scorer would not help where the stages cannot meet.
  for (const s of stages)
    if (goesByScores(s) && !stages.some((other) => other.kind === 'score'))
      throw new IncompatibleStages(
        null,
        nameOf(s),
        `${s.id} ${s.kind === 'budget' ? 'shares out a budget by scores' : 'picks by score'}, and nothing scores.`,
        ADD_SCORER,
      )
}

/** Every different set of stages that acts on some layer. Layers that no stage names stand for each other, and count once. */
function stageSets(stages: readonly AnyStage[]): readonly (readonly AnyStage[])[] {
  const named = new Set(stages.flatMap((s) => [...(s.on?.layers ?? []), ...(s.on?.except ?? [])]))
  const unnamed = Math.max(-1, ...named) + 1
  const sets = [...named, unnamed].map((layer) => stages.filter((s) => actsOn(s, layer)))
  return [...new Map(sets.map((set) => [set.map((s) => stages.indexOf(s)).join(), set])).values()]
}

function checkWindow(part: Part, w: Window): void {
  if (w.recent !== Number.POSITIVE_INFINITY && (!Number.isInteger(w.recent) || w.recent < 0))
    throw new WindowError(`The ${part} window keeps ${w.recent} recent rows.`, 'Give a whole number from 0.')
  if (!Number.isInteger(w.block) || w.block < 1)
    throw new WindowError(`The ${part} window seals blocks of ${w.block} rows.`, 'Give a whole number from 1.')
}

function refuseTwins(stages: readonly AnyStage[]): void {
  for (const kind of SINGLE) {
    const list = stages.filter((s) => s.kind === kind)
    list.forEach((a, i) => {
      for (const b of list.slice(i + 1))
        if (overlap(a, b))
          throw new IncompatibleStages(nameOf(a), nameOf(b), `both ${VERB[kind]} the same rows.`, apart(a, b, stages))
    })
  }
}

/** Ways for two stages of one kind to do without each other. */
function apart(a: AnyStage, b: AnyStage, stages: readonly AnyStage[]): readonly Cure[] {
  const [first, second] = [methodOf(a), methodOf(b)]
  const scores = (name: string): boolean => stages.some((s) => s.kind === 'score' && methodOf(s) === name)
  // In layers of its own, a stage that goes by the scores of others would have none.
  const borrowing = [a, b].filter((s) => goesByScores(s) && !scores(methodOf(s))).map(methodOf)
  if (borrowing.length > 0) {
    const what = `a scorer that leaves this to ${borrowing[0]}`
    const others = [first, second].filter((name) => !borrowing.includes(name))
    return [
      { kind: 'leaveOut', anyOf: borrowing },
      ...others.map((method): Cure => ({ kind: 'replace', method, what, methods: ['snapkv', 'tova'] })),
    ]
  }
  // Two quantizers can share out keys and values, where each is a method of its own.
  const parts: Cure = { kind: 'separate', by: 'parts', methods: [first, second] }
  const own = a.kind === 'quantize' && a.method === undefined && b.method === undefined && first !== second
  return own ? [parts, ...oneOrLayers(first, second)] : oneOrLayers(first, second)
}

const VERB: Record<Kind, string> = {
  model: 'change',
  score: 'score',
  budget: 'share out a budget over',
  pick: 'pick among',
  resample: 'resample',
  transform: 'transform',
  predict: 'predict',
  quantize: 'quantize',
  recall: 'recall',
  lossless: 'code',
}

function mixCard(parts: readonly KVCompressor[]): MethodCard {
  return {
    name: parts.map((p) => p.card.name).join('+'),
    title: parts.map((p) => p.card.title).join(' + '),
    summary: `A mix of ${parts.map((p) => p.card.title).join(', ')}.`,
    chunkInvariant: parts.every((p) => p.card.chunkInvariant),
  }
}
