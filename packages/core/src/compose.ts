/** compose(): flatten, order by kind, fold the space through every stage. An illegal mix is refused here, in one sentence. */
import type {
  AnyStage,
  Kind,
  KVCompressor,
  MethodCard,
  Part,
  RowStore,
  Space,
  Stage,
  Window,
  Windows,
} from './contract'
import { KINDS } from './contract'
import { IncompatibleStages, OptionError, WindowError } from './errors'

/** Nothing is ever sealed: the window of a cache without a quantizer. */
const UNBOUNDED: Window = { recent: Number.POSITIVE_INFINITY, block: 1, drain: 'blocks' }
export const NO_SEALING: Windows = { sinks: 0, keys: UNBOUNDED, values: UNBOUNDED }

/** Kinds of which one part of one layer can hold only one. */
const SINGLE: readonly Kind[] = ['score', 'budget', 'pick', 'resample', 'predict', 'quantize', 'recall']
/** Kinds whose decision covers keys and values together. */
const WHOLE: readonly Kind[] = ['model', 'score', 'budget', 'pick', 'resample', 'recall']

/**
 * Mixes compressors into one. Order of arguments does not matter between kinds; within one kind it is kept.
 * @throws IncompatibleStages naming both stages and the cure.
 */
export function compose(...parts: readonly KVCompressor[]): KVCompressor {
  const [first] = parts
  if (!first)
    throw new OptionError('compose', 'parts', [], 'at least one compressor', 'Use none() for an uncompressed cache.')
  if (parts.length === 1) return checked(first)
  const stages = KINDS.flatMap((kind) => parts.flatMap((p) => p.stages.filter((s) => s.kind === kind)))
  const store = singleStore(parts)
  const window = mergeWindows(parts)
  return checked({
    card: mixCard(parts),
    stages,
    ...(window ? { window } : {}),
    ...(store ? { store } : {}),
  })
}

/** Overrides the exact zones: `window({ sinks: 4, keys: { recent: 64 } }, kivi())`. */
export function window(
  change: {
    readonly sinks?: number
    readonly keys?: Partial<Window>
    readonly values?: Partial<Window>
    readonly store?: RowStore
  },
  compressor: KVCompressor,
): KVCompressor {
  const base = compressor.window ?? NO_SEALING
  for (const [name, value] of [
    ['sinks', change.sinks],
    ['keys.recent', change.keys?.recent],
    ['values.recent', change.values?.recent],
  ] as const)
    if (value !== undefined && value !== Number.POSITIVE_INFINITY && (!Number.isInteger(value) || value < 0))
      throw new OptionError('window', name, value, 'a whole number from 0')
  for (const [name, value] of [
    ['keys.block', change.keys?.block],
    ['values.block', change.values?.block],
  ] as const)
    if (value !== undefined && (!Number.isInteger(value) || value < 1))
      throw new OptionError('window', name, value, 'a whole number from 1')
  return checked({
    ...compressor,
    window: {
      sinks: change.sinks ?? base.sinks,
      keys: { ...base.keys, ...change.keys },
      values: { ...base.values, ...change.values },
    },
    ...(change.store ? { store: change.store } : {}),
  })
}

/** One compressor for keys, another for values. Stages that decide over both parts (eviction, models) are refused. */
export function split(o: { readonly keys: KVCompressor; readonly values: KVCompressor }): KVCompressor {
  const restrict = (c: KVCompressor, part: Part): AnyStage[] =>
    c.stages
      .filter((s) => s.on?.part === undefined || s.on.part === part)
      .map((s) => {
        if (WHOLE.includes(s.kind))
          throw new IncompatibleStages(
            'split',
            s.id,
            `${s.id} (${s.kind}) decides over keys and values together.`,
            'Compose it outside: compose(split(...), eviction).',
          )
        return { ...s, on: { ...s.on, part } } as AnyStage
      })
  const stages = [...restrict(o.keys, 'keys'), ...restrict(o.values, 'values')]
  const kw = o.keys.window ?? NO_SEALING
  const vw = o.values.window ?? NO_SEALING
  const store = singleStore([o.keys, o.values])
  return checked({
    card: { ...mixCard([o.keys, o.values]), name: `split(keys=${o.keys.card.name}, values=${o.values.card.name})` },
    stages: KINDS.flatMap((kind) => stages.filter((s) => s.kind === kind)),
    window: { sinks: Math.max(kw.sinks, vw.sinks), keys: kw.keys, values: vw.values },
    ...(store ? { store } : {}),
  })
}

/** Restricts a compressor to some layers; the others stay uncompressed unless another part covers them. */
export function onLayers(layers: readonly number[], compressor: KVCompressor): KVCompressor {
  if (layers.some((l) => !Number.isInteger(l) || l < 0))
    throw new OptionError('onLayers', 'layers', layers, 'layer numbers from 0')
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
  return onLayers(
    Array.from({ length: total }, (_, l) => l).filter((l) => !layers.includes(l)),
    compressor,
  )
}

/** The stages of one kind that act on a layer (and part). */
export function stagesOn<K extends Kind>(c: KVCompressor, kind: K, layer: number, part?: Part): readonly Stage<K>[] {
  return c.stages.filter(
    (s) =>
      s.kind === kind &&
      (s.on?.layers?.includes(layer) ?? true) &&
      (part === undefined || (s.on?.part ?? part) === part),
  ) as unknown as readonly Stage<K>[]
}

/** The space of a part's rows after every stage; the fold that refuses illegal mixes. */
export function foldSpace(stages: readonly AnyStage[], part: Part): Space {
  let space: Space = {
    part,
    heads: 'each',
    dim: null,
    rope: part === 'keys' ? 'pre' : 'none',
    pairsIntact: true,
    layerGroup: 1,
    tokenSets: 'model',
    slots: false,
    randomAccess: true,
  }
  let earlier = 'the model'
  for (const stage of stages) {
    if ((stage.on?.part ?? part) !== part) continue
    const next = stage.accepts(space, earlier)
    if (next.rope !== space.rope && space.rope !== 'none' && !space.pairsIntact)
      throw new IncompatibleStages(
        earlier,
        stage.id,
        `${stage.id} takes ${next.rope}-RoPE rows, but ${earlier} broke the rotary pairs.`,
        'Use a variant that works on the same side of RoPE.',
      )
    space = next
    earlier = stage.id
  }
  return space
}

function checked(c: KVCompressor): KVCompressor {
  refuseTwins(c.stages)
  const scorer = c.stages.find((s) => s.kind === 'score')
  for (const s of c.stages)
    if (s.kind === 'budget' && !scorer)
      throw new IncompatibleStages(
        'none',
        s.id,
        `${s.id} shares out a budget by scores, and nothing scores.`,
        'Add a scorer, for example snapkv().',
      )
  foldSpace(c.stages, 'keys')
  foldSpace(c.stages, 'values')
  if (c.window) for (const part of ['keys', 'values'] as const) checkWindow(part, c.window[part])
  return Object.freeze(c)
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
          throw new IncompatibleStages(
            a.id,
            b.id,
            `both ${VERB[kind]} the same rows.`,
            kind === 'quantize'
              ? 'Give them different parts with split({ keys, values }) or different layers with onLayers().'
              : 'Keep one of them, or give them different layers with onLayers().',
          )
    })
  }
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
}

function overlap(a: AnyStage, b: AnyStage): boolean {
  const parts = a.on?.part === undefined || b.on?.part === undefined || a.on.part === b.on.part
  const la = a.on?.layers
  const lb = b.on?.layers
  return parts && (!la || !lb || la.some((l) => lb.includes(l)))
}

function singleStore(parts: readonly KVCompressor[]): RowStore | undefined {
  const [a, ...rest] = parts.filter((p) => p.store !== undefined)
  const b = rest.find((p) => p.store !== a?.store)
  if (a && b)
    throw new IncompatibleStages(
      a.card.name,
      b.card.name,
      'they store exact rows differently.',
      "Say which: window({ store: 'f16' }, ...) around one of them.",
    )
  return a?.store
}

/** Sinks: the most anyone asks for. Per part: the one finite window; two different ones are refused. */
function mergeWindows(parts: readonly KVCompressor[]): Windows | undefined {
  const given = parts.flatMap((p) => (p.window ? [{ name: p.card.name, window: p.window }] : []))
  if (given.length === 0) return undefined
  const one = (part: Part): Window => {
    const [a, ...rest] = given.filter((g) => g.window[part].recent !== Number.POSITIVE_INFINITY)
    const differs = (g: (typeof given)[number]) => JSON.stringify(g.window[part]) !== JSON.stringify(a?.window[part])
    const b = rest.find(differs)
    if (a && b)
      throw new IncompatibleStages(
        a.name,
        b.name,
        `they propose different windows for ${part}.`,
        'Say which: window({ keys, values, sinks }, ...) around one of them.',
      )
    return a?.window[part] ?? UNBOUNDED
  }
  return { sinks: Math.max(...given.map((g) => g.window.sinks)), keys: one('keys'), values: one('values') }
}

function mixCard(parts: readonly KVCompressor[]): MethodCard {
  return {
    name: parts.map((p) => p.card.name).join('+'),
    title: parts.map((p) => p.card.title).join(' + '),
    summary: `A mix of ${parts.map((p) => p.card.title).join(', ')}.`,
    chunkInvariant: parts.every((p) => p.card.chunkInvariant),
  }
}
