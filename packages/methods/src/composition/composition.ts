/** A composition as text, such as `snapkv(keep=0.5)+kivi(bits=2)`: what the command line, configurations and reports write. */
import { type KVCompressor, OptionError } from '@kvloom/core'
import { methods as ownMethods } from '../generated/methods'
import type { Method } from '../method'
import { buildComposition } from './build'
import { inGrammar } from './cure'

/**
 * Reads and builds a composition.
 * @param text methods joined by `+`, with options by name; combinators as functions: `window(kivi(bits=2), recent=64)`
 * @param methods that the text can name. Default: all of kvloom
 * @throws OptionError for what is no text; CompositionError with the position; what `compose` refuses, its cure as a composition writes it
 */
export function composition(text: string, methods: readonly Method[] = ownMethods): KVCompressor {
  if (typeof text !== 'string')
    throw new OptionError(
      'composition',
      'text',
      typeof text === 'object' ? 'an object' : text,
      'a composition as text, such as "snapkv(keep=0.5)+kivi(bits=2)"',
    )
  if (!Array.isArray(methods) || !methods.every((each) => typeof each === 'function' && 'card' in each))
    throw new OptionError('composition', 'methods', typeof methods, 'a list of methods, such as [...methods, mine]')
  try {
    return buildComposition(text, methods)
  } catch (error) {
    throw inGrammar(error)
  }
}
