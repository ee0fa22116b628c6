import fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openCache, ready, SerializedCacheError } from '@kvloom/core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { loadCache, saveCache } from './cache-file'
import { loadModel, type Model } from './model'
import { resolveModel } from './models/resolve'
import { prefill } from './prefill'

const plain = ready({ card: { name: 'plain', title: 'plain', summary: '', chunkInvariant: true }, stages: [] })
let model: Model
let folder: string

beforeAll(async () => {
  model = await loadModel((await resolveModel('tiny')).path)
  folder = await fs.mkdtemp(join(tmpdir(), 'kvloom-cache-'))
})
afterAll(async () => {
  model.dispose()
  await fs.rm(folder, { recursive: true })
})

it('goes on from a saved cache with the same logits', async () => {
  const cache = openCache(model.shape, plain)
  const first = await prefill(model, cache, model.tokenizer.encode('Call me Ishmael. Some years ago'))
  first?.dispose()
  const file = join(folder, 'cache.kvloom')
  await saveCache(cache, file)
  const restored = await loadCache(model.shape, plain, file)
  const next = Int32Array.of(32)
  const logits = await Promise.all(
    [cache, restored].map(async (each) => (await model.forward(each, next, 'decode'))?.data()),
  )
  expect(logits[1]).toEqual(logits[0])
  expect((await fs.readdir(folder)).sort()).toEqual(['cache.kvloom'])

  const bytes = await fs.readFile(file)
  await fs.writeFile(file, bytes.subarray(0, bytes.length - 100))
  await expect(loadCache(model.shape, plain, file)).rejects.toThrow(SerializedCacheError)
  await expect(loadCache(model.shape, plain, join(folder, 'missing'))).rejects.toThrow(SerializedCacheError)
  await expect(saveCache(cache, join(folder, 'no', 'such', 'folder'))).rejects.toMatchObject({ code: 'CACHE_FILE' })
  cache.dispose()
  restored.dispose()
})
