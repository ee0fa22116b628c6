/**
 * Turns a cure that core words in TypeScript into the grammar of compositions: `window({ keys: { recent: 0 } }, ...)` becomes
 * `window(…, keys={recent=0})`, `compose(a(), b())` becomes `a+b`, `split({ keys, values })` becomes `split(keys=…, values=…)`.
 */
import { IncompatibleStages, KvloomError } from '@kvloom/core'

/** Names of functions that a cure may call; anything else in parentheses is prose. */
const CALL = /\b(window|split|compose|onLayers|exceptLayers|protectLayers|ownRows|sharedTokens)\(/

/** How a combinator is written whose arguments the cure leaves out. */
const BARE: Readonly<Record<string, string>> = {
  onLayers: 'onLayers([0, 1], …)',
  exceptLayers: 'exceptLayers([0], …)',
  protectLayers: 'protectLayers([0], 30, …)',
}

/** The message of an error with its cure in the grammar of compositions; other messages stay as they are. */
export function messageInGrammar(error: Error): string {
  if (!(error instanceof KvloomError)) return error.message
  const cure = 'cure' in error && typeof error.cure === 'string' ? error.cure : ''
  const at = cure === '' ? -1 : error.message.lastIndexOf(cure)
  if (at < 0) return error.message
  const sides = error instanceof IncompatibleStages && error.earlier !== null ? [error.earlier, error.later] : []
  return `${error.message.slice(0, at)}${inGrammar(cure, sides)}`
}

/** @param sides names of the two stages that cannot meet, for cures that give each its own part. */
export function inGrammar(text: string, sides: readonly string[] = []): string {
  const found = CALL.exec(text)
  if (!found) return plain(text)
  const name = found[1] ?? ''
  const open = found.index + found[0].length
  const close = closing(text, open)
  const before = plain(text.slice(0, found.index))
  const after = inGrammar(text.slice(close + 1), sides)
  return `${before}${call(name, text.slice(open, close), sides)}${after}`
}

function call(name: string, inner: string, sides: readonly string[]): string {
  const given = topLevel(inner)
  if (given.length === 0) return BARE[name] ?? `${name}(…)`
  if (name === 'compose') return given.map((each) => argument(each, sides)).join('+')
  const records = given.filter((each) => each.startsWith('{'))
  const others = given.filter((each) => !each.startsWith('{')).map((each) => argument(each, sides))
  const named = records.flatMap((each) => topLevel(each.slice(1, -1))).map((field) => setting(field, sides))
  return `${name}(${[...others, ...named].join(', ')})`
}

function argument(text: string, sides: readonly string[]): string {
  if (text === '...') return '…'
  return inGrammar(
    text.replace(/^([a-zA-Z]+)\(\)$/, (_, method: string) => kebab(method)),
    sides,
  )
}

/** `recent: 0` to `recent=0`; a field without a value stands for whatever the user has there. */
function setting(field: string, sides: readonly string[]): string {
  const at = field.indexOf(':')
  if (at < 0) return `${field.trim()}=${sides.length === 2 ? (sides[field.trim() === 'keys' ? 0 : 1] ?? '…') : '…'}`
  const [name, value] = [field.slice(0, at).trim(), field.slice(at + 1).trim()]
  if (value.startsWith('{')) {
    const fields = topLevel(value.slice(1, -1)).map((each) => setting(each, sides))
    return `${name}={${fields.join(', ')}}`
  }
  return `${name}=${argument(value, sides)}`
}

/** Prose: calls without arguments, quoted words and `name: 'word'` are written as in a composition. */
const plain = (text: string): string =>
  text
    .replaceAll(/\b([a-z][A-Za-z]*): '([\w-]+)'/g, '$1=$2')
    .replaceAll(/\b([a-z][A-Za-z]*)\(\)/g, (_, method: string) => kebab(method))
    .replaceAll(/'([\w-]+)'/g, '$1')
    .replaceAll('...', '…')

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** Where the parenthesis that is open before `from` closes. */
function closing(text: string, from: number): number {
  let depth = 1
  for (let at = from; at < text.length; at++) {
    if ('([{'.includes(text[at] ?? '')) depth++
    else if (')]}'.includes(text[at] ?? '') && --depth === 0) return at
  }
  return text.length
}

/** Pieces between commas that stand in no bracket. */
function topLevel(text: string): readonly string[] {
  const pieces: string[] = []
  let depth = 0
  let start = 0
  for (let at = 0; at <= text.length; at++) {
    const letter = text[at] ?? ''
    if (at === text.length || (letter === ',' && depth === 0)) {
      pieces.push(text.slice(start, at).trim())
      start = at + 1
    } else if (letter !== '' && '([{'.includes(letter)) depth++
    else if (letter !== '' && ')]}'.includes(letter)) depth--
  }
  return pieces.filter((piece) => piece !== '')
}
