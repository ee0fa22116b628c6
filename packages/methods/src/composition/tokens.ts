/** Cuts a composition such as `snapkv(keep=0.5)+kivi(bits=2)` into tokens. */
import { CompositionError } from './errors'

export type Token =
  | { readonly kind: 'name' | 'symbol' | 'end'; readonly text: string; readonly at: number }
  | { readonly kind: 'string'; readonly text: string; readonly value: string; readonly at: number }
  | { readonly kind: 'number'; readonly text: string; readonly value: number; readonly at: number }

const NAME = /[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*/y
const NUMBER = /-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?/y
const STRING = /"[^"]*"|'[^']*'/y
const SYMBOL = /[()[\]{},+=:]/y
const SPACE = /\s+/y

/** `at` counts characters from 1. @throws CompositionError at a character that begins no token. */
export function tokenize(text: string): readonly Token[] {
  const tokens: Token[] = []
  let at = 0
  const take = (pattern: RegExp): string | null => {
    pattern.lastIndex = at
    const found = pattern.exec(text)?.[0] ?? null
    if (found !== null) at += found.length
    return found
  }
  while (at < text.length) {
    if (take(SPACE) !== null) continue
    const start = at + 1
    const name = take(NAME)
    if (name !== null) tokens.push({ kind: 'name', text: name, at: start })
    else tokens.push(literal(take, text, start))
  }
  tokens.push({ kind: 'end', text: 'the end', at: text.length + 1 })
  return tokens
}

function literal(take: (pattern: RegExp) => string | null, text: string, at: number): Token {
  const number = take(NUMBER)
  if (number !== null) return { kind: 'number', text: number, value: Number(number), at }
  const string = take(STRING)
  if (string !== null) return { kind: 'string', text: string, value: string.slice(1, -1), at }
  const symbol = take(SYMBOL)
  if (symbol !== null) return { kind: 'symbol', text: symbol, at }
  const wrong = text[at - 1] ?? ''
  throw new CompositionError(
    text,
    at,
    wrong === '"' || wrong === "'"
      ? 'a string begins here and does not end'
      : `"${wrong}" has no meaning in a composition`,
  )
}
