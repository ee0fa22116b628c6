/** Helper that makes a transform, which maps rows to latents, in a few lines. */
import { refuseHeadSets, refuseLayerSets, refuseSlots } from './accept'
import type { Artifact, Fit, Part, RowStore, Site, Space, Stage, Transform, Windows } from './contract'
import { cardOf, type Described, defineMethod, type MethodFactory } from './define'
import type { OptionSchema, OptionsOf } from './options'

type Side = 'free' | 'pre' | 'post'

/**
 * Makes a transform, which maps rows to latents. It gets one stage per part that it acts on; `fit` makes its maps from the model,
 * `fitOnline` from the prompt.
 */
export function defineTransform<S extends OptionSchema>(
  d: Described & {
    readonly options: S
    /** Throw OptionError for options that do not fit each other. */
    readonly check?: (options: OptionsOf<S>) => void
    /**
     * When it acts. With `seal`, the default, it acts as rows leave the window; with `promptEnd` the prompt stays exact until its end,
     * where the map is fitted.
     */
    readonly when?: 'seal' | 'promptEnd'
    /** The parts that it acts on. Default both. */
    readonly parts?: (options: OptionsOf<S>) => readonly Part[]
    readonly layers?: (options: OptionsOf<S>) => readonly number[] | undefined
    /** The side of RoPE on which it takes keys; `free` takes either. */
    readonly rope: Side | ((options: OptionsOf<S>) => Side)
    /** Whether the heads of a token share one latent. */
    readonly mergesHeads?: boolean | ((options: OptionsOf<S>) => boolean)
    /** Channels of its latents, where options and the space before it tell them. Default null: the model or a fit decides. */
    readonly dim?: (options: OptionsOf<S>, space: Space) => number | null
    /** How many layers are compressed together; they must keep the same tokens. Default 1. */
    readonly layerGroup?: number
    readonly window?: (options: OptionsOf<S>) => Windows
    readonly store?: (options: OptionsOf<S>) => RowStore
    readonly ownRows?: 'exact' | 'stored'
    readonly fit?: (options: OptionsOf<S>, part: Part) => Fit | undefined
    /** Throw ModelMismatch when it does not fit the model. */
    readonly transform: (options: OptionsOf<S>, site: Site, artifact?: Artifact) => Transform
  },
): MethodFactory<S> {
  return defineMethod(cardOf(d, d.when !== 'promptEnd'), d.options, (options) => {
    d.check?.(options)
    const merges = typeof d.mergesHeads === 'function' ? d.mergesHeads(options) : (d.mergesHeads ?? false)
    const side = typeof d.rope === 'function' ? d.rope(options) : d.rope
    const group = d.layerGroup ?? 1
    const layers = d.layers?.(options)
    const stage = (part: Part): Stage<'transform'> => {
      const fit = d.fit?.(options, part)
      return {
        kind: 'transform',
        id: d.name,
        options: options as Stage['options'],
        when: d.when ?? 'seal',
        on: { part, ...(layers ? { layers } : {}) },
        accepts: (space, earlier) => {
          refuseSlots(space, d.name, earlier)
          if (merges) refuseHeadSets(space, d.name, earlier)
          if (group > 1) refuseLayerSets(space, d.name, earlier)
          return {
            ...space,
            heads: merges ? 'all' : space.heads,
            dim: d.dim?.(options, space) ?? null,
            rope: part === 'values' || side === 'free' ? space.rope : side,
            latent: true,
            layerGroup: group,
          }
        },
        ...(fit ? { fit } : {}),
        bind: (site, artifact) => d.transform(options, site, artifact),
      }
    }
    return {
      stages: (d.parts?.(options) ?? ['keys', 'values']).map(stage),
      ...(d.window ? { window: d.window(options) } : {}),
      ...(d.store ? { store: d.store(options) } : {}),
      ...(d.ownRows ? { ownRows: d.ownRows } : {}),
    }
  })
}
