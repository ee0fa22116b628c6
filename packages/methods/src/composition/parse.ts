/**
 * The grammar of compositions, as a tree; what names mean is decided in `build.ts`.
 *
 *   composition := call ('+' call)*
 *   call        := name [ '(' [ argument (',' argument)* ] ')' ]
 *   argument    := [ name '=' ] value
 *   value       := number | string | list | record | composition
 *   list        := '[' [ value (',' value)* ] ']'
 *   record      := '{' [ name '=' value (',' name '=' value)* ] '}'
 *
 * An argument that is the bare name of a flag sets it: `keepReconstruction` is `keepReconstruction=true`.
 */
import { CompositionError } from './errors'
import { type Token, tokenize } from './tokens'

export interface Call {
  readonly kind: 'call'
  readonly at: number
  readonly name: string
  /** False for a bare name, which may be a word (`when=step`) or a method. */
  readonly called: boolean
  readonly args: readonly Argument[]
}
export interface Sum {
  readonly kind: 'sum'
  readonly at: number
  readonly parts: readonly Call[]
}
export interface Literal {
  readonly kind: 'literal'
  readonly at: number
  readonly value: number | string
}
export interface List {
  readonly kind: 'list'
  readonly at: number
  readonly items: readonly Value[]
}
export interface RecordValue {
  readonly kind: 'record'
  readonly at: number
  readonly entries: readonly Argument[]
}
export type Value = Sum | Literal | List | RecordValue
export interface Argument {
  readonly at: number
  readonly name: string | null
  readonly value: Value
}

/** @throws CompositionError naming the position and what was expected there. */
export function parseComposition(text: string): Sum {
  const parser = new Parser(text)
  const sum = parser.sum()
  parser.end()
  return sum
}

/** So many brackets may stand inside each other. No option and no combinator needs more, and each takes room on the stack. */
const DEEPEST = 100

class Parser {
  private readonly tokens: readonly Token[]
  private at = 0
  private depth = 0

  constructor(private readonly text: string) {
    this.tokens = tokenize(text)
  }

  sum(): Sum {
    const { at } = this.next
    const parts = [this.call()]
    while (this.skip('+')) parts.push(this.call())
    return { kind: 'sum', at, parts }
  }

  end(): void {
    if (this.next.kind !== 'end') this.fail('"+" or the end')
  }

  private get next(): Token {
    return this.tokens[Math.min(this.at, this.tokens.length - 1)] as Token
  }

  private call(): Call {
    const { kind, text: name, at } = this.next
    if (kind !== 'name') this.fail('the name of a method')
    this.at++
    const called = this.skip('(')
    return { kind: 'call', at, name, called, args: called ? this.separated(')', () => this.argument()) : [] }
  }

  private argument(): Argument {
    const { at } = this.next
    const name = this.nameBeforeEquals()
    return { at, name, value: this.value() }
  }

  private entry(): Argument {
    const argument = this.argument()
    if (argument.name === null)
      throw new CompositionError(this.text, argument.at, 'expected "name=value" inside braces')
    return argument
  }

  private nameBeforeEquals(): string | null {
    const after = this.tokens[this.at + 1]
    if (this.next.kind !== 'name' || !after || !(after.text === '=' || after.text === ':')) return null
    const name = this.next.text
    this.at += 2
    return name
  }

  private value(): Value {
    const token = this.next
    if (token.kind === 'number' || token.kind === 'string') {
      this.at++
      return { kind: 'literal', at: token.at, value: token.value }
    }
    if (this.skip('[')) return { kind: 'list', at: token.at, items: this.separated(']', () => this.value()) }
    if (this.skip('{')) return { kind: 'record', at: token.at, entries: this.separated('}', () => this.entry()) }
    if (token.kind === 'name') return this.sum()
    return this.fail('a value')
  }

  private separated<T>(close: string, item: () => T): readonly T[] {
    const items: T[] = []
    if (this.skip(close)) return items
    if (++this.depth > DEEPEST) this.fail(`at most ${DEEPEST} brackets inside each other`)
    do items.push(item())
    while (this.skip(','))
    this.depth--
    if (!this.skip(close)) this.fail(`"," or "${close}"`)
    return items
  }

  private skip(symbol: string): boolean {
    if (this.next.kind !== 'symbol' || this.next.text !== symbol) return false
    this.at++
    return true
  }

  private fail(expected: string): never {
    const { kind, text, at } = this.next
    throw new CompositionError(this.text, at, `expected ${expected}, found ${kind === 'end' ? text : `"${text}"`}`)
  }
}
