/** Checks what the combinators are given, so that plain JavaScript too gets an error that says what to do. */
import type { ModelShape, RowStore, Window } from './contract'
import { OptionError } from './errors'
import { refuseUnknown } from './options'

/** What `window()` may change of the rows that stay exact. */
export interface WindowChange {
  readonly sinks?: number
  readonly keys?: Partial<Window>
  readonly values?: Partial<Window>
  readonly store?: RowStore
}

/** @param where the combinator, and which of its arguments this is. @throws OptionError for anything but a compressor */
export function checkCompressor(where: string, given: unknown): void {
  if (typeof given === 'object' && given !== null && Array.isArray(Reflect.get(given, 'stages'))) return
  const method = typeof given === 'function'
  throw new OptionError(
    where,
    'compressor',
    method
      ? 'a function'
      : Array.isArray(given)
        ? 'a list'
        : typeof given === 'object' && given
          ? 'another object'
          : given,
    'a compressor, such as kivi({ bits: 2 })',
    method ? 'Call it: a method gives a compressor.' : '',
  )
}

/** A model as the engine loads it, or its shape alone. */
export type ModelOrShape = ModelShape | { readonly shape: ModelShape }

/** @param where who was given it. @throws OptionError for anything but a model or a shape */
export function shapeGiven(where: string, given: ModelOrShape): ModelShape {
  const object: unknown = given
  if (typeof object === 'object' && object !== null) {
    const shape: unknown = 'shape' in object ? object.shape : object
    if (typeof shape === 'object' && shape !== null && 'layers' in shape && 'kvHeads' in shape && 'rope' in shape)
      return shape as ModelShape
  }
  throw new OptionError(
    where,
    'model',
    typeof object === 'object' && object !== null ? 'another object' : object,
    'a model of loadModel(), or its shape',
    typeof object === 'string' ? 'Load it first: await loadModel(name).' : '',
  )
}

/** @throws OptionError for anything but a list of layer numbers */
export function checkLayers(where: string, given: readonly number[]): void {
  if (!Array.isArray(given) || given.some((layer) => !Number.isInteger(layer) || layer < 0))
    throw new OptionError(where, 'layers', given, 'a list of layer numbers from 0')
}

/** Refuses a misspelt setting, which would change nothing. @throws OptionError for a setting of another name or range */
export function checkChange(change: WindowChange): void {
  refuseUnknown('window', change, ['sinks', 'keys', 'values', 'store'])
  const { sinks, store, ...parts } = change
  if (sinks !== undefined && (!Number.isInteger(sinks) || sinks < 0))
    throw new OptionError('window', 'sinks', sinks, 'a whole number from 0')
  if (store !== undefined && store !== 'f16' && store !== 'f32')
    throw new OptionError('window', 'store', store, '"f16", "f32"')
  for (const part of ['keys', 'values'] as const) {
    const own = parts[part]
    if (own === undefined) continue
    refuseUnknown(`window, ${part}`, own, ['recent', 'block', 'drain'])
    const { recent, block, drain } = own
    if (recent !== undefined && recent !== Number.POSITIVE_INFINITY && (!Number.isInteger(recent) || recent < 0))
      throw new OptionError('window', `${part}.recent`, recent, 'a whole number from 0')
    if (block !== undefined && (!Number.isInteger(block) || block < 1))
      throw new OptionError('window', `${part}.block`, block, 'a whole number from 1')
    if (drain !== undefined && drain !== 'blocks' && drain !== 'all')
      throw new OptionError('window', `${part}.drain`, drain, '"blocks", "all"')
  }
}
