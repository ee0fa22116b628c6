/** From the tree of a composition to a compressor: names become methods and combinators, options are checked by the methods. */
import {
  compose,
  exceptLayers,
  type KVCompressor,
  OptionError,
  onLayers,
  ownRows,
  protectLayers,
  sharedTokens,
  split,
  window,
} from '@kvloom/core'
import type { Method } from '../method'
import { CompositionError } from './errors'
import { nearest } from './nearest'
import { type Argument, type Call, parseComposition, type Sum, type Value } from './parse'

/** Reads and builds a composition. @throws CompositionError with the position; IncompatibleStages and others of `compose`. */
export function buildComposition(text: string, methods: readonly Method[]): KVCompressor {
  return new Builder(text, methods).sum(parseComposition(text))
}

type Combinator = (builder: Builder, call: Call) => KVCompressor

const COMBINATORS: Readonly<Record<string, Combinator>> = {
  compose: (b, call) => {
    const named = call.args.find(({ name }) => name !== null)
    if (named) throw b.error(named.at, `compose() takes compositions, without "${named.name}="`)
    return compose(...call.args.map((a) => b.composition(a)))
  },
  split: (b, call) => {
    const named = b.named(call, ['keys', 'values'])
    return split({
      keys: b.composition(b.required(call, named, 'keys')),
      values: b.composition(b.required(call, named, 'values')),
    })
  },
  onLayers: (b, call) => {
    const [layers, inner] = b.positional(call, ['the list of layers', 'a composition'])
    return onLayers(b.layers(layers), b.composition(inner))
  },
  exceptLayers: (b, call) => {
    const [layers, inner] = b.positional(call, ['the list of layers', 'a composition'])
    return exceptLayers(b.layers(layers), b.composition(inner))
  },
  ownRows: (b, call) => {
    const [which, inner] = b.positional(call, ['exact or stored', 'a composition'])
    return ownRows(b.choice(which, ['exact', 'stored']), b.composition(inner))
  },
  sharedTokens: (b, call) => {
    const [scope, inner] = b.positional(call, ['layer or model', 'a composition'])
    return sharedTokens(b.choice(scope, ['layer', 'model']), b.composition(inner))
  },
  protectLayers: (b, call) => {
    const [layers, total, inner] = b.positional(call, [
      'the list of layers',
      'the number of layers of the model',
      'a composition',
    ])
    return protectLayers(b.layers(layers), b.number(total), b.composition(inner))
  },
  window: (b, call) => {
    const inner = call.args.filter((a) => a.name === null)
    const [only] = inner
    if (!only || inner.length > 1)
      throw b.error(call.at, 'window() takes one composition and named settings: window(kivi(bits=2), recent=64)')
    const named = b.named({ ...call, args: call.args.filter((a) => a.name !== null) }, [
      'sinks',
      'store',
      'recent',
      'block',
      'drain',
      'keys',
      'values',
    ])
    const shared = { ...b.setting(named, 'recent'), ...b.setting(named, 'block'), ...b.setting(named, 'drain') }
    const part = (name: 'keys' | 'values') => ({
      [name]: { ...shared, ...(b.setting(named, name)[name] as object | undefined) },
    })
    const change = { ...b.setting(named, 'sinks'), ...b.setting(named, 'store'), ...part('keys'), ...part('values') }
    return window(change as Parameters<typeof window>[0], b.composition(only))
  },
}

/** Names compared without case, hyphens and underscores: `streamingLlm` is `streaming-llm`. */
export const plainName = (name: string): string => name.toLowerCase().replaceAll(/[-_]/g, '')

/** The bare name of a flag of the method as `name=true`; any other argument as it is. */
function flagSet(argument: Argument, { options }: Method): Argument {
  if (argument.name !== null || argument.value.kind !== 'sum') return argument
  const [word, ...more] = argument.value.parts
  if (!word || word.called || more.length > 0 || typeof options[word.name]?.default !== 'boolean') return argument
  return { ...argument, name: word.name, value: { ...argument.value, parts: [{ ...word, name: 'true' }] } }
}

class Builder {
  private readonly byName: ReadonlyMap<string, Method>

  constructor(
    private readonly text: string,
    private readonly methods: readonly Method[],
  ) {
    this.byName = new Map(methods.map((m) => [plainName(m.card.name), m]))
  }

  sum(sum: Sum): KVCompressor {
    return compose(...sum.parts.map((part) => this.call(part)))
  }

  private call(call: Call): KVCompressor {
    const method = this.byName.get(plainName(call.name))
    if (method) return this.method(method, call)
    const combinator = Object.entries(COMBINATORS).find(([name]) => plainName(name) === plainName(call.name))?.[1]
    if (combinator) return this.placed(call.at, () => combinator(this, call))
    const names = this.methods.map((m) => m.card.name)
    const known = [...names, ...Object.keys(COMBINATORS)]
    throw this.error(
      call.at,
      `unknown method "${call.name}"${nearest(call.name, known)}; methods: ${names.join(', ')}; combinators: ${Object.keys(COMBINATORS).join(', ')}`,
    )
  }

  private method(method: Method, call: Call): KVCompressor {
    const allowed = Object.keys(method.options)
    const options: Record<string, unknown> = {}
    const args = call.args.map((argument) => flagSet(argument, method))
    for (const [name, argument] of this.named({ ...call, args }, allowed))
      options[name] = this.plainValue(argument.value)
    const create = method as unknown as (options: Record<string, unknown>) => KVCompressor
    return this.placed(call.at, () => create(options), call)
  }

  /** Adds the position to option errors. */
  private placed<T>(at: number, build: () => T, call?: Call): T {
    try {
      return build()
    } catch (error) {
      if (!(error instanceof OptionError)) throw error
      const argument = call?.args.find((a) => a.name === error.option)
      throw new CompositionError(this.text, argument?.at ?? at, error.message.replace(/\.$/, ''), { cause: error })
    }
  }

  /** Arguments by name. @throws when one is unknown, unnamed or given twice. */
  named(call: Call, allowed: readonly string[]): Map<string, Argument> {
    const found = new Map<string, Argument>()
    for (const argument of call.args) {
      const { name, at } = argument
      if (name === null)
        throw this.error(
          at,
          `${call.name}() takes its options by name: ${allowed.map((n) => `${n}=…`).join(', ') || 'it has none'}`,
        )
      if (!allowed.includes(name))
        throw this.error(
          at,
          `${call.name} has no option "${name}"${nearest(name, allowed)}; options: ${allowed.join(', ') || 'none'}`,
        )
      if (found.has(name)) throw this.error(at, `${call.name}: option ${name} is given twice`)
      found.set(name, argument)
    }
    return found
  }

  required(call: Call, named: Map<string, Argument>, name: string): Argument {
    const argument = named.get(name)
    if (!argument) throw this.error(call.at, `${call.name}() needs ${name}=…`)
    return argument
  }

  /** Exactly the arguments described, in this order, without names: a wrong one would change nothing. */
  positional<const W extends readonly string[]>(call: Call, wanted: W): { [I in keyof W]: Argument } {
    const named = call.args.find(({ name }) => name !== null)
    if (named) throw this.error(named.at, `${call.name}() takes ${wanted.join(', then ')}, without "${named.name}="`)
    if (call.args.length !== wanted.length) throw this.error(call.at, `${call.name}() takes ${wanted.join(', then ')}`)
    return call.args as unknown as { [I in keyof W]: Argument }
  }

  composition({ value }: Argument): KVCompressor {
    if (value.kind !== 'sum') throw this.error(value.at, 'expected a composition, such as kivi(bits=2)')
    return this.sum(value)
  }

  number({ value }: Argument): number {
    const given = this.plainValue(value)
    if (typeof given !== 'number') throw this.error(value.at, 'expected a number')
    return given
  }

  choice<const C extends string>({ value }: Argument, allowed: readonly C[]): C {
    const given = this.plainValue(value)
    const found = allowed.find((each) => each === given)
    if (found === undefined) throw this.error(value.at, `expected ${allowed.join(' or ')}`)
    return found
  }

  layers({ value }: Argument): readonly number[] {
    const given = this.plainValue(value)
    if (!Array.isArray(given) || !given.every((n): n is number => typeof n === 'number'))
      throw this.error(value.at, 'expected a list of layer numbers, such as [0, 1]')
    return given
  }

  /** `{ name: value }` when it was given, else `{}`. */
  setting(named: Map<string, Argument>, name: string): Record<string, unknown> {
    const argument = named.get(name)
    return argument ? { [name]: this.plainValue(argument.value) } : {}
  }

  /** Numbers, strings, words, true, false, lists and records as plain data. */
  private plainValue(value: Value): unknown {
    switch (value.kind) {
      case 'literal':
        return value.value
      case 'list':
        return value.items.map((item) => this.plainValue(item))
      case 'record':
        return Object.fromEntries(value.entries.map((e) => [e.name ?? '', this.plainValue(e.value)]))
      case 'sum':
        return this.word(value)
    }
  }

  private word(sum: Sum): string | boolean {
    const [only] = sum.parts
    if (!only || sum.parts.length > 1 || only.called)
      throw this.error(sum.at, 'expected a number, a word, a string or a list, not a composition')
    return only.name === 'true' ? true : only.name === 'false' ? false : only.name
  }

  error(at: number, reason: string): CompositionError {
    return new CompositionError(this.text, at, reason)
  }
}
