import { KvloomError, ModelMismatch } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
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

  it.each([
    ['onLayers([0], kivi)+onLayers([1], higgs)', 'onLayers([1], higgs)', 'onLayers([0], kivi)'],
    ['lorc(rank=24)+kivi', 'lorc(rank=24)', 'kivi'],
    ['kivi+lorc(rank=24)', 'lorc(rank=24)', 'kivi'],
  ])('can be pasted: the windows of %s', (text, changed, other) => {
    const message = refused(text)
    const [cure = ''] = /window\(…[^)]*\)/.exec(message) ?? []
    expect(cure).toContain('keys={')
    const mixed = composition(`${cure.replace('…', changed)}+${other}`)
    expect(mixed.window?.keys).toEqual(composition(other).window?.keys)
  })

  it('name what is missing, not what nobody wrote', () => {
    expect(refused('ada-kv')).toMatch(/^ada-kv cannot work alone: .*nothing scores\. Add a scorer: snapkv\+…/)
    expect(refused('kivi+ada-kv')).not.toContain('none and')
  })
})
