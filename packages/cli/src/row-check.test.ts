/** The check before a comparison: what it lets through can be opened later, what it refuses would have failed. */
import { checkModel } from '@kvloom/core'
import { loadModel, type Model, resolveModel } from '@kvloom/engine'
import { shapeFor } from '@kvloom/eval'
import { composition, methods } from '@kvloom/methods'
import { memory } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

let model: Model
beforeAll(async () => {
  const { path } = await resolveModel('tiny')
  model = await loadModel(path, { backend: 'wasm' })
})
afterAll(() => model.dispose())

const check = (text: string): string => {
  const before = memory().numTensors
  const compressor = composition(text)
  try {
    checkModel(shapeFor(model, compressor), compressor)
    return ''
  } catch (error) {
    return (error as Error).message
  } finally {
    expect(memory().numTensors, `tensors of ${text}`).toBe(before)
  }
}

describe('on the tiny model', () => {
  // Two have no scores to go by alone; kvsharer shares 4 layers by default, and the tiny model has no more.
  const others = ['ada-kv', 'kvcrush', 'kvsharer']
  const alone = methods.map((m) => m.card.name).filter((name) => !others.includes(name))
  it.each(alone)('%s can run, fitted or not', (name) => {
    expect(check(name)).toBe('')
  })
  it.each([
    'kv-latent+kivi(group=16)',
    'window(lorc(rank=24), keys={recent=0, block=128, drain=blocks}, values={recent=128, block=1, drain=blocks})+kivi',
    'exceptLayers([0], linear-predictor)+higgs',
    'snapkv+ada-kv+kivi',
    'snapkv+kvcrush',
    'kvsharer(share=1)',
    'kvsharer(share=1)+kivi',
  ])('%s can run', (text) => {
    expect(check(text)).toBe('')
  })
  it.each([
    ['kivi(group=24, residual=24)', /Choose a group that divides 32/],
    ['kv-latent(valueDim=99)', /a value head has 32 channels, 99 are asked for/],
    ['onLayers([0], kv-latent)', /new weights of every layer/],
    ['coupled-quantization(channels=6)', /does not fit this model/],
    ['kvsharer+kivi', /kvsharer does not fit this model: 4 layers/],
  ])('%s is refused before anything is fitted', (text, message) => {
    expect(check(text)).toMatch(message)
  })
  it('a window that does not serve one method is refused without a model', () => {
    expect(() => composition('window(kivi, block=20)')).toThrow(/smaller than the 32 rows that kivi quantizes together/)
  })
})
