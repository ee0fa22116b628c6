/** What plain JavaScript gets wrong at the door of the cache is refused in words. */
import { expect, it } from 'vitest'
import { restoreCache } from './cache/file/restore'
import { openCache } from './cache/open'
import { KvloomError } from './errors'
import { bytesOf, dense as exact, model } from './testing/cache-toys'

const refusal = (run: () => unknown): KvloomError => {
  try {
    run()
  } catch (error) {
    if (KvloomError.isInstance(error)) return error
    throw error
  }
  throw new Error('nothing was refused')
}

it('takes a model or its shape, and a compressor as it is', async () => {
  for (const given of [model, { shape: model }]) {
    const cache = openCache(given, exact)
    expect(cache.model).toBe(model)
    const again = restoreCache(given, exact, await bytesOf(cache))
    expect(again.tokensSeen).toBe(0)
    cache.dispose()
    again.dispose()
  }
})

it.each([
  ['nothing', undefined, /option model is undefined; allowed: a model of loadModel/],
  ['null', null, /option model is null/],
  ['a name', 'tiny', /"tiny".*await loadModel\(name\)/],
  ['an empty object', {}, /another object/],
  ['an object with another shape', { shape: [1, 2] }, /another object/],
])('refuses %s in the place of a model', (_, given, message) => {
  for (const open of [openCache, restoreCache])
    expect(refusal(() => open(given as never, exact, new Uint8Array()))).toMatchObject({
      code: 'OPTION',
      message: expect.stringMatching(message),
    })
})

it.each([
  ['nothing', undefined, /option compressor is undefined/],
  ['a text', 'kivi(bits=2)', /"kivi\(bits=2\)".*kivi\(\{ bits: 2 \}\)/],
  ['a method that was not called', () => exact, /Call it/],
  ['a list', [exact], /a list/],
])('refuses %s in the place of a compressor', (_, given, message) => {
  for (const open of [openCache, restoreCache])
    expect(refusal(() => open(model, given as never, new Uint8Array()))).toMatchObject({
      code: 'OPTION',
      message: expect.stringMatching(message),
    })
})

it('refuses a file name in the place of bytes', () => {
  expect(refusal(() => restoreCache(model, exact, 'cache.bin' as never)).code).toBe('OPTION')
})
