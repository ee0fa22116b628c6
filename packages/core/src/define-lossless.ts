/** Helper that makes a lossless codec in a few lines. */
import type { Lossless, Site, Stage } from './contract'
import { cardOf, type Described, defineMethod, type MethodFactory } from './define'
import type { OptionSchema, OptionsOf } from './options'

/** Makes a lossless codec for what leaves the device: rows in a recall's host tier, and in saved caches. It gets one stage per part. */
export function defineLossless<S extends OptionSchema>(
  d: Described & {
    readonly options: S
    readonly codec: (options: OptionsOf<S>, site: Site) => Lossless
  },
): MethodFactory<S> {
  return defineMethod(cardOf(d, true), d.options, (options) => ({
    stages: (['keys', 'values'] as const).map(
      (part): Stage<'lossless'> => ({
        kind: 'lossless',
        id: d.name,
        options: options as Stage['options'],
        when: 'leave',
        on: { part },
        accepts: (space) => space,
        bind: (site) => d.codec(options, site),
      }),
    ),
  }))
}
