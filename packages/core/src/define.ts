/** Helpers that make a common method in about ten lines. Each returns a factory that knows its card and options. */

import type { Tensor } from '@tensorflow/tfjs-core'
import { dropping, refuseSlots } from './accept'
import type {
  AnyStage,
  Artifact,
  Block,
  Bound,
  ChannelGroups,
  Fit,
  IsBlock,
  KVCompressor,
  MethodCard,
  Needs,
  Observed,
  Part,
  Picker,
  Protected,
  Quantizer,
  ReplayContext,
  ReplayPass,
  RowStore,
  ScoreContext,
  Site,
  Space,
  Stage,
  Tensors,
  When,
  Windows,
} from './contract'
import { fraction, type OptionSchema, type OptionsOf, parseOptions } from './options'

/** A method: a function that takes options and returns a compressor. Docs and the command line read its `card` and `options`. */
export interface MethodFactory<S extends OptionSchema = OptionSchema> {
  (options?: Partial<OptionsOf<S>>): KVCompressor
  readonly card: MethodCard
  readonly options: S
}

/** Makes a method whose stages are all written by hand. `build` gets options that were checked. */
export function defineMethod<S extends OptionSchema>(
  card: MethodCard,
  options: S,
  build: (options: OptionsOf<S>) => Omit<KVCompressor, 'card'>,
): MethodFactory<S> {
  const named = (stage: AnyStage): AnyStage => (stage.id === card.name ? stage : { ...stage, method: card.name })
  const factory = (given?: Partial<OptionsOf<S>>): KVCompressor => {
    const built = build(parseOptions(card.name, options, given))
    return Object.freeze({ card, ...built, stages: built.stages.map(named) })
  }
  return Object.freeze(Object.assign(factory, { card, options }))
}

export type Described = Required<Record<'name', string>> & Partial<MethodCard>

export const cardOf = (d: Described, chunkInvariant: boolean): MethodCard => ({
  name: d.name,
  title: d.title ?? d.name,
  summary: d.summary ?? '',
  ...(d.paper ? { paper: d.paper } : {}),
  chunkInvariant: d.chunkInvariant ?? chunkInvariant,
})

/** The options of a scorer that declares none. */
const KEEP = { keep: fraction({ default: 0.5, doc: 'Fraction of tokens kept, per KV head.' }) }

/**
 * Makes a scorer: a method that gives every token a number in every KV head. The trunc(tokens · keep) tokens with the largest ones stay, the
 * older one of two that tie; at least one stays, and whatever `protect` promises. `score` gets what `needs` asked for and returns
 * `[kvHeads, tokens]`, or `[1, tokens]` for one set of tokens per layer. It runs inside tf.tidy: return a tensor, dispose nothing.
 */
export function defineScorer<const N extends Needs, S extends OptionSchema = typeof KEEP>(
  d: Described & {
    /** When it acts. Default `promptEnd`. */
    readonly when?: When | ((options: OptionsOf<S>) => When)
    readonly options?: S
    /** Throw OptionError for options that do not fit each other. */
    readonly check?: (options: OptionsOf<S>) => void
    readonly needs: N | ((options: OptionsOf<S>, site: Site) => N)
    readonly columns?: readonly string[]
    /** The layers that it acts on. Default all. */
    readonly layers?: (options: OptionsOf<S>) => readonly number[] | undefined
    readonly tokenSets?: Space['tokenSets']
    /**
     * How many of `tokens` stored rows stay, of `seen` tokens of the sequence. Default trunc(tokens · options.keep). Core keeps at least the
     * protected rows, and at least one.
     */
    readonly count?: (tokens: number, options: OptionsOf<S>, site: Site, seen: number) => number
    /** Rows of every KV head that stay whatever scores and counts say. Default none. */
    readonly protect?: (options: OptionsOf<S>) => Protected
    /** Passes over the context when it acts, whose attention `{ of: 'replay' }` sees. */
    readonly replay?: (context: ReplayContext, options: OptionsOf<S>) => readonly ReplayPass[]
    readonly score: (
      seen: Observed<N>,
      options: OptionsOf<S>,
      context: { readonly site: Site; readonly columns: Tensors; readonly now: ScoreContext },
    ) => Tensor | { readonly scores: Tensor; readonly columns: Tensors }
  },
): MethodFactory<S> {
  const schema = (d.options ?? KEEP) as S
  return defineMethod(cardOf(d, true), schema, (options) => {
    d.check?.(options)
    const keep = (options as Record<string, unknown>)['keep']
    const layers = d.layers?.(options)
    const stage: Stage<'score'> = {
      kind: 'score',
      id: d.name,
      options: options as Stage['options'],
      ...(layers ? { on: { layers } } : {}),
      when: typeof d.when === 'function' ? d.when(options) : (d.when ?? 'promptEnd'),
      accepts: (space) => dropping(space, d.tokenSets ?? 'head', stage.when),
      bind: (site) => ({
        needs: typeof d.needs === 'function' ? d.needs(options, site) : d.needs,
        ...(d.columns ? { columns: d.columns } : {}),
        ...(d.protect ? { protect: d.protect(options) } : {}),
        ...(d.replay ? { replay: (context: ReplayContext) => d.replay?.(context, options) ?? [] } : {}),
        count: (tokens, seen) =>
          d.count ? d.count(tokens, options, site, seen) : Math.trunc(tokens * (typeof keep === 'number' ? keep : 1)),
        score: (seen, columns, now) => d.score(seen as Observed<N>, options, { site, columns, now }),
      }),
    }
    return { stages: [stage] }
  })
}

/** Makes a pick: a method that chooses which tokens stay, from positions alone (`by: 'positions'`) or from any scorer's scores. */
export function definePick<const N extends Needs, S extends OptionSchema>(
  d: Described & {
    readonly when?: When | ((options: OptionsOf<S>) => When)
    readonly options: S
    /** Throw OptionError for options that do not fit each other. */
    readonly check?: (options: OptionsOf<S>) => void
    /** What it chooses by. A pick by `positions` needs no scores, and is refused beside a scorer. Default `scores`. */
    readonly by?: 'scores' | 'positions'
    /**
     * Whether it drops rows one by one, here and there, after the prompt too. Default true for a pick by scores that acts at another time
     * than the end of the prompt.
     */
    readonly scatters?: boolean
    /** Whether each KV head keeps a number of rows of its own, as its `Picker` says. Default false. */
    readonly ragged?: boolean
    /** Rows from this number on are numbered anew after a drop (`positions: 'slot'`). Default: none. */
    readonly renumbersFrom?: (options: OptionsOf<S>) => number | undefined
    readonly pick: (options: OptionsOf<S>, site: Site) => Picker<N>
    readonly tokenSets?: Space['tokenSets']
    /** The windows that it proposes, for example its sinks. They are merged with those of a quantizer beside it. */
    readonly window?: (options: OptionsOf<S>) => Windows
  },
): MethodFactory<S> {
  return defineMethod(cardOf(d, false), d.options, (options) => {
    d.check?.(options)
    const when = typeof d.when === 'function' ? d.when(options) : (d.when ?? 'promptEnd')
    const by = d.by ?? 'scores'
    const renumbersFrom = d.renumbersFrom?.(options)
    return {
      stages: [
        {
          kind: 'pick',
          id: d.name,
          options: options as Stage['options'],
          when,
          facts: {
            by,
            scatters: d.scatters ?? (by === 'scores' && when !== 'promptEnd'),
            ...(d.ragged ? { ragged: true } : {}),
            ...(renumbersFrom === undefined ? {} : { renumbersFrom }),
          },
          accepts: (space) => dropping(space, d.tokenSets ?? 'head', when),
          bind: (site) => d.pick(options, site) as Bound['pick'],
        },
      ],
      ...(d.window ? { window: d.window(options) } : {}),
    }
  })
}

/** Makes a quantizer. It gets one stage per part, so keys and values may differ; `window` is what it proposes to leave exact. */
export function defineQuantizer<S extends OptionSchema, B extends IsBlock<B> = Block>(
  d: Described & {
    readonly options: S
    /** Throw OptionError for options that do not fit each other. */
    readonly check?: (options: OptionsOf<S>) => void
    readonly window?: (options: OptionsOf<S>) => Windows
    readonly store?: (options: OptionsOf<S>) => RowStore
    /** The side of RoPE on which it takes keys. Default after (`post`). */
    readonly rope?: 'pre' | 'post'
    readonly randomAccess?: boolean
    /** How many rows it seals, masks and frees together, as its `Quantizer` says. Default 1: every row can be dropped alone. */
    readonly rowsPerGroup?: (options: OptionsOf<S>, part: Part) => number
    /** What its rows' channels have to be a multiple of. Default: any number of channels. */
    readonly channels?: (options: OptionsOf<S>, part: Part) => ChannelGroups | undefined
    /** How its tables are learned; `quantizer` then gets the artifact. Absent when it learns nothing. */
    readonly fit?: (options: OptionsOf<S>) => Fit | undefined
    /** Throw ModelMismatch when the site's dims do not divide. */
    readonly quantizer: (options: OptionsOf<S>, site: Site, artifact?: Artifact) => Quantizer<B>
  },
): MethodFactory<S> {
  return defineMethod(cardOf(d, true), d.options, (options) => {
    d.check?.(options)
    const fit = d.fit?.(options)
    const stage = (part: 'keys' | 'values'): Stage<'quantize'> => {
      const channels = d.channels?.(options, part)
      return {
        kind: 'quantize',
        id: d.name,
        options: options as Stage['options'],
        when: 'seal',
        on: { part },
        facts: { rowsPerGroup: d.rowsPerGroup?.(options, part) ?? 1, ...(channels ? { channels } : {}) },
        accepts: (space, earlier) => {
          refuseSlots(space, d.name, earlier)
          return {
            ...space,
            rope: space.latent || space.rope === 'none' ? space.rope : (d.rope ?? 'post'),
            randomAccess: space.randomAccess && (d.randomAccess ?? true),
          }
        },
        ...(fit ? { fit } : {}),
        bind: (site, artifact) => d.quantizer(options, site, artifact) as unknown as Quantizer,
      }
    }
    return {
      stages: [stage('keys'), stage('values')],
      ...(d.window ? { window: d.window(options) } : {}),
      ...(d.store ? { store: d.store(options) } : {}),
    }
  })
}
