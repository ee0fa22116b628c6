// Who may write special tokens. A special token is found in a text only where this file marks it, so that one library serves text with
// and without them; and what a chat message spells out (`<|im_end|>` typed by a user) stays text through the chat template.
import type { TokenizerDescription } from './from-gguf'

/**
 * Stands after the first character of a special token that a chat message spells out. U+FDD0 is a noncharacter, which Unicode sets
 * aside for marks inside a program; `encode` takes it out again.
 */
const broken = '\ufdd0'

/** Finds, marks and breaks the texts of special tokens. */
export class SpecialText {
  /** The tokenizer.json for the library: special tokens there have the mark before their text. */
  readonly json: Readonly<Record<string, unknown>>
  // The mark cannot be guessed, so no text can hold it; ids do not depend on it.
  private readonly mark = `\ufdd1${globalThis.crypto.getRandomValues(new Uint32Array(4)).join('-')}`
  private readonly special: RegExp | undefined
  private readonly brokenOnly: RegExp | undefined
  private readonly brokenOrSpecial: RegExp | undefined

  constructor({ json, tokens, specialIds }: TokenizerDescription) {
    const texts = [...specialIds].map((id) => tokens[id] ?? '').filter((text) => text !== '')
    const pieces = texts.sort((a, b) => b.length - a.length).map(escaped)
    const brokenPieces = texts.map((text) => escaped(breakUp(text)))
    this.special = alternatives(pieces)
    this.brokenOnly = alternatives(brokenPieces)
    this.brokenOrSpecial = alternatives([...brokenPieces, ...pieces])
    this.json = { ...json, ...this.marked(json, specialIds, new Set(texts)) }
  }

  /** What a chat message holds, with every special token in it broken up. */
  protect(text: string): string {
    return this.special ? text.replace(this.special, breakUp) : text
  }

  /** A text for the library: special tokens marked where they count, broken ones whole again and without a mark. */
  prepare(text: string, special: boolean): string {
    const wholeAgain = (found: string) => found.replace(broken, '')
    const anyBroken = text.includes(broken)
    if (!special) return anyBroken && this.brokenOnly ? text.replace(this.brokenOnly, wholeAgain) : text
    const pattern = anyBroken ? this.brokenOrSpecial : this.special
    if (!pattern) return text
    return text.replace(pattern, (found) => (isBroken(found) ? wholeAgain(found) : this.mark + found))
  }

  private marked(json: Readonly<Record<string, unknown>>, specialIds: ReadonlySet<number>, texts: ReadonlySet<string>) {
    const added: unknown = json['added_tokens']
    const list = Array.isArray(added) ? (added as { readonly id?: unknown; readonly content?: unknown }[]) : []
    const added_tokens = list.map((each) =>
      specialIds.has(Number(each.id)) ? { ...each, content: this.mark + String(each.content) } : each,
    )
    const model = json['model'] as Readonly<Record<string, unknown>>
    // Where a piece that is a whole token is taken unmerged, the vocabulary must not offer special tokens as such pieces.
    if (model['ignore_merges'] !== true) return { added_tokens }
    const vocab = Object.entries(model['vocab'] as object).filter(([token]) => !texts.has(token))
    return { added_tokens, model: { ...model, vocab: Object.fromEntries(vocab) } }
  }
}

const firstOf = (text: string): string => String.fromCodePoint(text.codePointAt(0) ?? 0)

function breakUp(text: string): string {
  const first = firstOf(text)
  return first + broken + text.slice(first.length)
}

const isBroken = (found: string): boolean => found.startsWith(broken, firstOf(found).length)

const escaped = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')

const alternatives = (pieces: readonly string[]): RegExp | undefined =>
  pieces.length > 0 ? new RegExp(pieces.join('|'), 'g') : undefined
