import { defineScorer, IncompatibleStages, stagesOn } from '@kvloom/core'
import { sum } from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { methods } from '../index'
import { composition } from './composition'
import { parseComposition } from './parse'

const build = (text: string) => composition(text)
const optionsOf = (text: string) => build(text).stages[0]?.options

describe('compositions', () => {
  it('name a method, with or without options', () => {
    expect(build('none').card.name).toBe('none')
    expect(build('none()').store).toBe('f16')
    expect(build("none(store='f32')").store).toBe('f32')
    expect(optionsOf('kivi( bits = 4 , residual=64 )')).toMatchObject({ bits: 4, residual: 64, group: 32 })
    expect(optionsOf('tova(keep=2.5e-1)')).toMatchObject({ keep: 0.25 })
  })
  it('take names as people write them', () => {
    expect(build('streamingLlm(keep=0.5)').card.name).toBe('streaming-llm')
    expect(build('L2_Norm').card.name).toBe('l2-norm')
  })
  it('take words and lists', () => {
    expect(optionsOf('l2-norm(when=step, skipLayers=[0, 3])')).toMatchObject({ when: 'step', skipLayers: [0, 3] })
    expect(optionsOf('l2-norm(skipLayers=[])')).toMatchObject({ skipLayers: [] })
  })
  it('take options that may be left out, and flags by their bare name', () => {
    expect(optionsOf('kivi(keyBits=4)')).toMatchObject({ keyBits: 4, valueBits: null })
    expect(optionsOf('linear-predictor(keepReconstruction, rank=8)')).toMatchObject({
      keepReconstruction: true,
      rank: 8,
    })
    expect(optionsOf('linear-predictor(keepReconstruction=true)')).toMatchObject({
      keepReconstruction: true,
      rank: null,
    })
    expect(optionsOf('expected-attention(covariance, valueNorm=false)')).toMatchObject({
      covariance: true,
      valueNorm: false,
    })
  })
  it('leave layers out and say which own rows a step reads', () => {
    expect(build('exceptLayers([0, 1], kivi)').stages[0]?.on).toMatchObject({ except: [0, 1] })
    expect(build('ownRows(stored, kivi)').ownRows).toBe('stored')
    expect(build('sharedTokens(model, snapkv)').stages.map((stage) => stage.tokenSets)).toEqual(['model'])
    expect(() => build('sharedTokens(head, snapkv)')).toThrow(/expected layer or model/)
    expect(() => build('ownRows(both, kivi)')).toThrow(/expected exact or stored \(character 9 /)
  })
  it('mix with +', () => {
    const mix = build('snapkv(keep=0.5)+kivi(bits=2)')
    expect(mix.stages.map((s) => s.kind)).toEqual(['score', 'quantize', 'quantize'])
  })
  it('split, restrict to layers and set windows', () => {
    const both = build('split(keys=kivi(bits=4), values=kivi(bits=2))')
    expect(stagesOn(both, 'quantize', 0, 'keys')[0]?.options).toMatchObject({ bits: 4 })
    expect(stagesOn(both, 'quantize', 0, 'values')[0]?.options).toMatchObject({ bits: 2 })
    const some = build('onLayers([0,1], kivi(bits=2))')
    expect(stagesOn(some, 'quantize', 2, 'keys')).toEqual([])
    expect(stagesOn(build('protectLayers([0], 4, kivi)'), 'quantize', 3, 'keys')).toHaveLength(1)
    const wide = build('window(kivi(bits=2), sinks=4, keys={recent=64, block=32}, values={recent=64})')
    expect(wide.window).toMatchObject({ sinks: 4, keys: { recent: 64, block: 32 }, values: { recent: 64, block: 1 } })
    expect(build('window(kivi(bits=2), recent=96)').window).toMatchObject({
      keys: { recent: 96 },
      values: { recent: 96 },
    })
    expect(build('compose(snapkv, kivi)').stages).toHaveLength(3)
  })
  it('know further methods', () => {
    const mine = defineScorer({ name: 'my-own', needs: { keys: { of: 'keys' } }, score: ({ keys }) => sum(keys, -1) })
    expect(composition('my-own(keep=0.3)+kivi', [...methods, mine]).card.name).toBe('my-own+kivi')
  })
})

describe('mistakes', () => {
  const cases: readonly (readonly [string, number, RegExp])[] = [
    [
      'snpkv(keep=0.5)',
      1,
      /unknown method "snpkv" \(did you mean "snapkv"\?\); methods: .*kivi, .*none, .*combinators: .*split/,
    ],
    ['kivi(bits=2)+xyzzy', 14, /unknown method "xyzzy"; methods/],
    ['kivi(bit=2)', 6, /kivi has no option "bit" \(did you mean "bits"\?\); options: bits, /],
    ['kivi(group=32, bits=5.5)', 16, /option bits is 5.5; allowed: a whole number from 1 to 8/],
    ['kivi(residual=100)', 6, /residual is 100; allowed: a multiple of group/],
    ['snapkv(keep=2)', 8, /option keep is 2; allowed: a number above 0 and at most 1/],
    ['kivi(bits=2', 12, /expected "," or "\)", found the end/],
    ['kivi(bits=2))', 13, /expected "\+" or the end, found "\)"/],
    ['kivi(bits=)', 11, /expected a value, found "\)"/],
    ['+kivi', 1, /expected the name of a method, found "\+"/],
    ['', 1, /expected the name of a method, found the end/],
    ['kivi(keyBits=0)', 6, /option keyBits is 0; allowed: a whole number from 1 to 8; left out: as bits/],
    ['kivi(keyBits)', 6, /takes its options by name: bits=/],
    ['expected-attention(covariance=on)', 20, /option covariance is "on"; allowed: true, false/],
    ['expected-attention(covariance, covariance=false)', 32, /option covariance is given twice/],
    ['tova(cache=0)', 6, /option cache is 0; allowed: a whole number from 1; left out: evict once, by keep/],
    ['kivi(2)', 6, /takes its options by name: bits=/],
    ['kivi(bits=2, bits=4)', 14, /option bits is given twice/],
    ['kivi;', 5, /";" has no meaning/],
    ["none(store='f16)", 12, /a string begins here and does not end/],
    ['split(keys=kivi)', 1, /needs values=/],
    ['protectLayers(total=[0], layers=24, kivi)', 15, /without "total="/],
    ['compose(a=snapkv, kivi)', 9, /compose\(\) takes compositions, without "a="/],
    ['onLayers(kivi)', 1, /takes the list of layers, then a composition/],
    ['onLayers([0], 3)', 15, /expected a composition/],
    ['window(recent=4)', 1, /takes one composition and named settings/],
    ['window(kivi, keys={64})', 20, /expected "name=value" inside braces/],
  ]
  it.each(cases)('%s', (text, position, message) => {
    expect(() => build(text)).toThrow(message)
    expect(() => build(text)).toThrow(`(character ${position} of "${text}")`)
  })
  it.each(['kivi(bits=', 'onLayers([0], ', 'window(keys={a='])('a text of %s without end', (open) => {
    expect(() => build(open.repeat(20_000))).toThrow(/expected at most 100 brackets inside each other/)
  })
  it('illegal mixes keep the words of compose()', () => {
    expect(() => build('kivi(bits=2)+kivi(bits=4)')).toThrow(IncompatibleStages)
    expect(() => build('snapkv+tova')).toThrow(/snapkv and tova cannot be composed/)
  })
  it.each([
    ['nothing', undefined],
    ['a number', 2],
    ['a compressor', build('none')],
    ['a list', ['kivi']],
  ])('%s in the place of a text', (_, given) => {
    expect(() => composition(given as never)).toThrow(expect.objectContaining({ code: 'OPTION' }))
  })
  it('a name in the place of methods', () => {
    for (const given of ['kivi', [build('none')], {}, null])
      expect(() => composition('kivi', given as never)).toThrow(expect.objectContaining({ code: 'OPTION' }))
  })
  it('positions count from 1 in the tree too', () => {
    expect(parseComposition(' a + b').parts.map((p) => p.at)).toEqual([2, 6])
  })
})
