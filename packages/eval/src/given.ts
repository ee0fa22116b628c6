/** Checks of what plain JavaScript may give wrongly. */
import { OptionError } from '@kvloom/core'
import type { Model } from '@kvloom/engine'

/** @throws OptionError for anything but a loaded model */
export function checkModelGiven(where: string, model: Model): void {
  const given: unknown = model
  if (typeof given === 'object' && given !== null && 'forward' in given && 'shape' in given) return
  throw new OptionError(
    where,
    'model',
    typeof given === 'object' && given !== null ? 'an object' : given,
    'a model of loadModel()',
    typeof given === 'string'
      ? 'Load it first: await loadModel(name).'
      : given instanceof Promise
        ? 'Write await in front of loadModel().'
        : '',
  )
}

/** @throws OptionError for anything but a text that is not empty */
export function textGiven(where: string, text: string): string {
  if (typeof text === 'string' && text !== '') return text
  throw new OptionError(where, 'text', typeof text === 'object' ? 'an object' : text, 'the text itself, not empty')
}
