import { KvloomError, ModelMismatch } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { methods } from '../generated/methods'
import { composition } from './composition'
import { inGrammar, messageInGrammar } from './cure'

const refused = (text: string): string => {
  try {
    composition(text)
  } catch (error) {
    return messageInGrammar(error as Error)
  }
  throw new Error(`${text} was not refused`)
}

describe('cures', () => {
  it.each([
    ['Give them different layers with onLayers().', 'Give them different layers with onLayers([0, 1], …).'],
    [
      'Use it without onLayers() and protectLayers().',
      'Use it without onLayers([0, 1], …) and protectLayers([0], 30, …).',
    ],
    ['with split({ keys, values }) or else', 'with split(keys=…, values=…) or else'],
    ['Use window({ keys: { block: 32 } }, ...) or a multiple.', 'Use window(…, keys={block=32}) or a multiple.'],
    [
      "window({ keys: { recent: 0, block: 8, drain: 'all' }, sinks: 4 }, higgs())",
      'window(higgs, keys={recent=0, block=8, drain=all}, sinks=4)',
    ],
    ['Compose it outside: compose(split(...), eviction).', 'Compose it outside: split(…)+eviction.'],
    ['Add a scorer: compose(snapkv(), ...).', 'Add a scorer: snapkv+….'],
    ['Add a scorer, for example streamingLlm().', 'Add a scorer, for example streaming-llm.'],
    ["Give ownRows('stored', ...) around b.", 'Give ownRows(stored, …) around b.'],
    ["Use tier: 'device', or else (higgs, tova).", 'Use tier=device, or else (higgs, tova).'],
    ['Choose a group that divides 32.', 'Choose a group that divides 32.'],
  ])('%s', (typescript, grammar) => {
    expect(inGrammar(typescript)).toBe(grammar)
  })

  it('are all that changes in a message', () => {
    const error = new ModelMismatch('m', 'calls onLayers() here.', 'Leave onLayers() out.')
    expect(messageInGrammar(error)).toBe(
      'm does not fit this model: calls onLayers() here. Leave onLayers([0, 1], …) out.',
    )
    expect(messageInGrammar(new KvloomError('X', 'window() it'))).toBe('window() it')
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

  it('name what is missing, not what nobody wrote', () => {
    expect(refused('ada-kv')).toMatch(/^ada-kv cannot work alone: .*nothing scores\. Add a scorer: snapkv\+…/)
    expect(refused('kivi+ada-kv')).not.toContain('none and')
  })
})

describe('every refusal of a pair', () => {
  const names = methods.map((m) => m.card.name)
  const pairs = names.flatMap((a, i) => names.slice(i).map((b) => (a === b ? [a] : [a, b])))
  const composes = (text: string): boolean => {
    try {
      composition(text)
      return true
    } catch (error) {
      if (error instanceof KvloomError) return false
      throw error
    }
  }
  const refusals = pairs.flatMap((pair) => {
    const text = pair.join('+')
    return composes(text) ? [] : [[text, pair, refused(text)] as const]
  })

  it.each(refusals)('%s has a cure that cures', (_, [a = '', b = ''], message) => {
    const cured: (readonly string[])[] = []
    for (const [split] of message.matchAll(/split\(keys=[^…)]*\)/g)) cured.push([split])
    if (message.includes('onLayers([0, 1], …)')) cured.push([`onLayers([0, 1], ${a})+exceptLayers([0, 1], ${b})`])
    for (const [, scorer, alone] of message.matchAll(/^(?=([\w-]+) cannot work alone).*Add a scorer: ([\w-]+)\+…/g))
      cured.push([`${alone}+${scorer}`])
    for (const [, settings] of message.matchAll(/window\(…, (.*)\)\.$/g))
      cured.push([a, b].map((side) => `${a === side ? b : a}+window(${side}, ${settings})`))
    // Methods by name: one of the two is replaced.
    for (const [, list] of message.matchAll(/ \(([a-z0-9, -]+)\)/g))
      for (const name of list?.split(', ') ?? []) if (names.includes(name)) cured.push([`${name}+${b}`, `${a}+${name}`])
    expect(cured, message).not.toEqual([])
    for (const ways of cured) expect(ways.some(composes), `${ways.join(' or ')} after: ${message}`).toBe(true)
  })

  it('needs no cure for windows where one window serves both', () => {
    for (const text of [
      'think+kivi',
      'minicache+kivi',
      'lorc(rank=48)+kivi',
      'onLayers([0], kivi)+onLayers([1], higgs)',
    ])
      expect(composition(text).mergedWindows, text).not.toBeUndefined()
    expect(refusals.filter(([, , message]) => message.includes('propose different windows'))).toEqual([])
  })
})
