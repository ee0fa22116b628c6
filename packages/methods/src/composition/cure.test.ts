import * as core from '@kvloom/core'
import { type Cure, type CureForm, cureExpression, type KVCompressor, KvloomError, RefusedError } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import * as generated from '../generated/methods'
import { methods } from '../generated/methods'
import { composition } from './composition'
import { messageInGrammar } from './cure'

const refusal = (text: string): RefusedError => {
  try {
    composition(text)
  } catch (error) {
    if (error instanceof RefusedError) return error
    throw error
  }
  throw new Error(`${text} was not refused`)
}
const refused = (text: string): string => refusal(text).message

/** What a program can write: the methods and combinators by name. */
const NAMES = { ...core, ...generated } as unknown as Readonly<Record<string, unknown>>
const names = ['compose', 'split', 'window', 'onLayers', 'exceptLayers', 'ownRows', 'sharedTokens']
const inScope = [...names, ...Object.keys(generated).filter((name) => name !== 'methods')]
const program = (code: string): KVCompressor =>
  new Function(...inScope, `return ${code}`)(...inScope.map((name) => NAMES[name])) as KVCompressor

const camel = (name: string): string => name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

/** How a mix of methods is written, and built again. */
const FORMS: Readonly<
  Record<
    CureForm,
    {
      rest: string
      one(name: string): string
      mix(parts: readonly string[]): string
      build(code: string): KVCompressor
    }
  >
> = {
  grammar: { rest: '…', one: (name) => name, mix: (parts) => parts.join('+'), build: (code) => composition(code) },
  typescript: {
    rest: '...',
    one: (name) => (name.includes('(') ? name : `${camel(name)}()`),
    mix: (parts) => (parts.length === 1 ? (parts[0] ?? '') : `compose(${parts.join(', ')})`),
    build: program,
  },
}

/** What a user would try after reading a cure. Each list needs one that works. */
function tries(cure: Cure, form: CureForm, parts: readonly string[]): readonly (readonly string[])[] {
  const { rest, one, mix } = FORMS[form]
  const code = cureExpression(cure, form) ?? ''
  const whole = mix(parts.map((part) => one(part)))
  const inPlaceOf = (method: string, text: string): string =>
    mix(parts.map((part) => (part.split('(')[0] === method ? text : one(part))))
  switch (cure.kind) {
    case 'advice':
      return []
    case 'leaveOut':
      return cure.anyOf
        .map((gone) => parts.filter((part) => part.split('(')[0] !== gone))
        .filter((left) => left.length > 0)
        .map((left) => [mix(left.map((part) => one(part)))])
    case 'replace':
      return cure.methods.map((method) => [inPlaceOf(cure.method, one(method))])
    case 'options':
      return [[inPlaceOf(cure.method, code)]]
    case 'wrap':
      return cure.around === null
        ? [
            [
              code.replace(rest, whole),
              ...parts.map((part) => inPlaceOf(part.split('(')[0] ?? '', code.replace(rest, one(part)))),
            ],
          ]
        : [[inPlaceOf(cure.around, code)]]
    case 'add':
      // A program lists what it composes, and the grammar joins it.
      return [[code.replace(rest, form === 'grammar' ? whole : parts.map((part) => one(part)).join(', '))]]
    case 'outside':
      // What is left of each part once the method is outside; here nothing else is in the part.
      return [[parts.reduce((text, part) => text.replace(rest, one(part === cure.method ? 'none' : part)), code)]]
    case 'separate':
      return [[code]]
  }
}

const composes = (build: () => unknown): boolean => {
  try {
    build()
    return true
  } catch (error) {
    if (error instanceof KvloomError) return false
    throw error
  }
}

/** Both renderings of every cure are in the message of their form, and cure. */
function expectCured(error: RefusedError, parts: readonly string[]): void {
  const all = (['grammar', 'typescript'] as const).flatMap((form) =>
    error.cures.flatMap((cure) => {
      const code = cureExpression(cure, form)
      if (code !== null) expect(error.messageIn(form)).toContain(code)
      return tries(cure, form, parts).map((ways) => ({ form, ways }))
    }),
  )
  expect(all, error.message).not.toEqual([])
  for (const { form, ways } of all)
    expect(
      ways.some((way) => composes(() => FORMS[form].build(way))),
      `${ways.join(' or ')} after: ${error.messageIn(form)}`,
    ).toBe(true)
}

describe('cures', () => {
  it('are written in the grammar for who wrote a text, and as a program for the library', () => {
    const error = refusal('ada-kv')
    expect(error.message).toMatch(/^ada-kv cannot work alone: .*nothing scores\. Add a scorer: snapkv\+…\.$/)
    expect(error.stack).toContain(error.message)
    expect(error.messageIn('typescript')).toMatch(/Add a scorer: compose\(snapkv\(\), \.\.\.\)\.$/)
    expect(() => generated.adaKv && core.compose(generated.adaKv())).toThrow(/Add a scorer: compose\(snapkv/)
    expect(messageInGrammar(new KvloomError('X', 'window() it'))).toBe('window() it')
    expect(refused('kivi+ada-kv')).not.toContain('none and')
  })

  it('can be pasted: two quantizers', () => {
    const message = refused('kivi+higgs')
    expect(message).toMatch(/^kivi and higgs cannot be composed: both quantize the same rows/)
    const [cure = ''] = /split\([^)]*\)/.exec(message) ?? []
    expect(cure).toBe('split(keys=kivi, values=higgs)')
    expect(composition(cure).stages.map((s) => [s.id, s.on?.part])).toEqual([
      ['kivi', 'keys'],
      ['higgs', 'values'],
    ])
  })

  it('can be pasted: one window for a predictor', () => {
    const text = 'window(linear-predictor+kivi, keys={recent=0}, values={recent=128, block=1})'
    const [cure = ''] = /window\(…, .*\)/.exec(refused(text)) ?? []
    expect(cure).toBe(
      'window(…, keys={recent=128, block=128, drain=blocks}, values={recent=128, block=128, drain=blocks})',
    )
    const { window } = composition(cure.replace('…', 'linear-predictor+kivi'))
    expect(window?.keys).toEqual(window?.values)
  })

  it('name the method that was written, and the stage of it that cannot', () => {
    expect(refused('higgs+aqua-kv')).toMatch(
      /^higgs and aqua-kv \(its higgs\) cannot be composed: both quantize the same rows\. Leave out higgs or aqua-kv, or /,
    )
    expect(refused('snapkv+aqua-kv')).toMatch(/^snapkv and aqua-kv \(its linear-predictor\) cannot be composed/)
  })

  const mixes: readonly (readonly [string, readonly string[], RegExp])[] = [
    [
      'kv-latent(keyDim=24)+block-formats',
      ['kv-latent(keyDim=24)', 'block-formats'],
      /have 24 channels, and block-formats takes a multiple of 32/,
    ],
    ['window(kivi, values={recent=0}, keys={block=8})', ['kivi'], /keys window seals blocks of 8 rows/],
    [
      'window(streaming-llm(positions=slot)+kivi, sinks=0)',
      ['streaming-llm(positions=slot)+kivi'],
      /numbers rows anew/,
    ],
    ['ownRows(exact, kivi)+lorc', ['ownRows(exact, kivi)', 'lorc'], /one attends to its own rows as they are/],
    [
      "none(store='f32')+window(kivi, store=f16)",
      ["none(store='f32')", 'window(kivi, store=f16)'],
      /store exact rows differently/,
    ],
    ['sharedTokens(layer, snapkv)+ada-kv', ['snapkv', 'ada-kv'], /ada-kv leaves heads with different numbers/],
    ['minicache+coupled-quantization', ['minicache', 'coupled-quantization'], /fitted with gradients of the loss/],
    ['freqkv+linear-predictor', ['freqkv', 'linear-predictor'], /rewrites its rows/],
    ['clusterkv(tier=host)+kivi', ['clusterkv(tier=host)', 'kivi'], /cannot be fetched one by one/],
    ['split(keys=kivi, values=snapkv)', ['kivi', 'snapkv'], /decides over keys and values together/],
  ]
  it.each(mixes)('of %s cure in both forms', (text, parts, message) => {
    const error = refusal(text)
    expect(error.message).toMatch(message)
    // A program writes options and combinators of its own; where a part has some, the grammar alone is tried.
    const plain = parts.every((part) => !part.includes('('))
    if (plain) expectCured(error, parts)
    else
      for (const cure of error.cures)
        for (const ways of tries(cure, 'grammar', parts))
          expect(
            ways.some((way) => composes(() => composition(way))),
            `${ways.join(' or ')} after: ${error.message}`,
          ).toBe(true)
  })
})

describe('every refusal of a pair', () => {
  const all = methods.map((m) => m.card.name)
  const pairs = all.flatMap((a, i) => all.slice(i).map((b) => (a === b ? [a] : [a, b])))
  const refusals = pairs.flatMap((pair) => {
    const text = pair.join('+')
    return composes(() => composition(text)) ? [] : [[text, pair] as const]
  })

  it.each(refusals)('%s has cures that cure, in both forms', (text, pair) => {
    expectCured(refusal(text), pair)
  })

  it('needs no cure for windows where one window serves both', () => {
    for (const text of [
      'think+kivi',
      'minicache+kivi',
      'lorc(rank=48)+kivi',
      'onLayers([0], kivi)+onLayers([1], higgs)',
    ])
      expect(composition(text).mergedWindows, text).not.toBeUndefined()
    expect(refusals.filter(([text]) => refused(text).includes('propose different windows'))).toEqual([])
  })
})
