/** Ways out of a refusal, as data, and how they are written: as TypeScript for the library, in the grammar of compositions for everything else. */
import type { Json } from './contract'

/** How a cure is written: `window({ sinks: 4 }, kivi())` or `window(kivi, sinks=4)`. */
export type CureForm = 'typescript' | 'grammar'

/** One way out of a refusal. Methods are named as compositions name them: `streaming-llm`. */
export type Cure =
  /** Compose without one of these methods or combinators. */
  | { readonly kind: 'leaveOut'; readonly anyOf: readonly string[] }
  /** Put one of `methods`, which are `what`, in the place of `method`. */
  | {
      readonly kind: 'replace'
      readonly method: string
      readonly what: string
      readonly methods: readonly string[]
    }
  /** Add what is missing, for example `method`. */
  | { readonly kind: 'add'; readonly what: string; readonly method: string }
  /** Give two methods different layers, or different parts: the first gets keys, the second values. */
  | { readonly kind: 'separate'; readonly by: 'layers' | 'parts'; readonly methods: readonly [string, string] }
  /** Put a combinator around a method, or around the whole composition where `around` is null. */
  | {
      readonly kind: 'wrap'
      readonly why: string
      readonly around: string | null
      readonly combinator: string
      readonly args?: readonly Json[]
      readonly settings?: Readonly<Record<string, Json>>
    }
  /** Compose a method outside of a combinator. */
  | { readonly kind: 'outside'; readonly combinator: string; readonly method: string }
  /** Give a method other options. */
  | { readonly kind: 'options'; readonly method: string; readonly options: Readonly<Record<string, Json>> }
  /** Anything else, in words that hold in both forms: a clause without a capital and a full stop. */
  | { readonly kind: 'advice'; readonly text: string }

/** A whole sentence, taken as it is, one cure, or several of which any will do. */
export type Cures = string | Cure | readonly Cure[]

export const curesOf = (cures: Cures): readonly Cure[] =>
  typeof cures === 'string' ? [] : 'kind' in cures ? [cures] : cures

/** The cures as one sentence. */
export function cureSentence(cures: Cures, form: CureForm): string {
  if (typeof cures === 'string') return cures
  const text = curesOf(cures)
    .map((cure) => clause(cure, form))
    .join(', or ')
  return text === '' ? '' : `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`
}

function clause(cure: Cure, form: CureForm): string {
  const code = cureExpression(cure, form) ?? ''
  switch (cure.kind) {
    case 'leaveOut':
      return cure.anyOf.length > 1 ? `leave out ${cure.anyOf.join(' or ')}` : `leave out ${cure.anyOf[0] ?? 'it'}`
    case 'replace':
      return `use ${cure.what} in place of ${cure.method} (${cure.methods.join(', ')})`
    case 'add':
      return `add ${cure.what}: ${code}`
    case 'separate':
      return `give them different ${cure.by}: ${code}`
    case 'wrap':
      return `${cure.why}: ${code}`
    case 'outside':
      return `compose it outside: ${code}`
    case 'options':
      return `use ${code}`
    case 'advice':
      return cure.text
  }
}

/** What to write, where a cure can be written; `...` (`…` in the grammar) stands for what the user has. */
export function cureExpression(cure: Cure, form: CureForm): string | null {
  const write = WRITERS[form]
  switch (cure.kind) {
    case 'leaveOut':
    case 'replace':
    case 'advice':
      return null
    case 'add':
      return write.sum([write.method(cure.method), write.rest])
    case 'separate': {
      const [first, second] = cure.methods.map((name) => write.method(name)) as [string, string]
      if (cure.by === 'parts') return write.named('split', { keys: first, values: second })
      return write.sum([write.call('onLayers', [[0, 1]], {}, first), write.call('exceptLayers', [[0, 1]], {}, second)])
    }
    case 'wrap': {
      const inner = cure.around === null ? write.rest : write.method(cure.around)
      return write.call(cure.combinator, cure.args ?? [], cure.settings ?? {}, inner)
    }
    case 'outside':
      return write.sum([
        write.named(cure.combinator, { keys: write.rest, values: write.rest }),
        write.method(cure.method),
      ])
    case 'options':
      return write.method(cure.method, cure.options)
  }
}

interface Writer {
  readonly rest: string
  method(name: string, options?: Readonly<Record<string, Json>>): string
  sum(parts: readonly string[]): string
  /** A combinator around `inner`. */
  call(name: string, args: readonly Json[], settings: Readonly<Record<string, Json>>, inner: string): string
  /** A combinator of named compositions. */
  named(name: string, inner: Readonly<Record<string, string>>): string
}

const entriesOf = <T>(of: Readonly<Record<string, T>>, write: (name: string, value: T) => string): readonly string[] =>
  Object.entries(of).map(([name, value]) => write(name, value))

const WRITERS: Readonly<Record<CureForm, Writer>> = {
  typescript: {
    rest: '...',
    method: (name, options = {}) => `${camel(name)}(${Object.keys(options).length > 0 ? typescript(options) : ''})`,
    sum: (parts) => `compose(${parts.join(', ')})`,
    call: (name, args, settings, inner) =>
      `${name}(${[
        ...args.map((arg) => typescript(arg)),
        ...(Object.keys(settings).length > 0 ? [typescript(settings)] : []),
        inner,
      ].join(', ')})`,
    named: (name, inner) => `${name}({ ${entriesOf(inner, (part, of) => `${part}: ${of}`).join(', ')} })`,
  },
  grammar: {
    rest: '…',
    method: (name, options = {}) =>
      Object.keys(options).length > 0 ? `${name}(${entriesOf(options, setting).join(', ')})` : name,
    sum: (parts) => parts.join('+'),
    call: (name, args, settings, inner) =>
      `${name}(${[...args.map((arg) => grammar(arg)), inner, ...entriesOf(settings, setting)].join(', ')})`,
    named: (name, inner) => `${name}(${entriesOf(inner, (part, of) => `${part}=${of}`).join(', ')})`,
  },
}

function typescript(value: Json): string {
  if (typeof value === 'string') return `'${value}'`
  if (typeof value !== 'object' || value === null) return String(value)
  if (isList(value)) return `[${value.map((each) => typescript(each)).join(', ')}]`
  return `{ ${entriesOf(value, (name, each) => `${name}: ${typescript(each)}`).join(', ')} }`
}

function grammar(value: Json): string {
  if (typeof value !== 'object' || value === null) return String(value)
  if (isList(value)) return `[${value.map((each) => grammar(each)).join(', ')}]`
  return `{${entriesOf(value, setting).join(', ')}}`
}

const setting = (name: string, value: Json): string => `${name}=${grammar(value)}`

const isList = (value: Json): value is readonly Json[] => Array.isArray(value)

/** `streaming-llm` as a name in a program: `streamingLlm`. */
const camel = (name: string): string => name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

/** The cure with other names of methods, as when a stage belongs to a method of another name. */
export function renamed(cure: Cure, name: (method: string) => string): Cure {
  switch (cure.kind) {
    case 'leaveOut':
      return { ...cure, anyOf: [...new Set(cure.anyOf.map(name))] }
    case 'separate':
      return { ...cure, methods: [name(cure.methods[0]), name(cure.methods[1])] }
    case 'wrap':
      return cure.around === null ? cure : { ...cure, around: name(cure.around) }
    case 'replace':
    case 'options':
      return { ...cure, method: name(cure.method) }
    default:
      return cure
  }
}

/** Two methods of which one has to go, or that can act on different layers. */
export const oneOrLayers = (first: string, second: string): readonly Cure[] => [
  { kind: 'leaveOut', anyOf: [first, second] },
  { kind: 'separate', by: 'layers', methods: [first, second] },
]

/** What is missing where a budget or a pick finds no scores. */
export const ADD_SCORER: Cure = { kind: 'add', what: 'a scorer', method: 'snapkv' }

/** The quantizers of which every row can be dropped, fetched and fitted alone. */
export const oneByOne = (method: string): Cure => ({
  kind: 'replace',
  method,
  what: 'a quantizer whose rows go one by one',
  methods: ['higgs', 'coupled-quantization'],
})

/** A quantizer that learns nothing. */
export const unfitted = (method: string): Cure => ({
  kind: 'replace',
  method,
  what: 'a quantizer that needs no calibration',
  methods: ['kivi', 'higgs'],
})

/** A method behind which all heads of a layer hold the same tokens. */
export const oneSet = (method: string): Cure => ({
  kind: 'replace',
  method,
  what: 'a method with one set of tokens per layer',
  methods: ['tova', 'streaming-llm'],
})
