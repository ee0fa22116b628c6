import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ready } from '@kvloom/core'
import { applyModelStages, loadModel, type Model } from '@kvloom/engine'
import { kvLatent } from '@kvloom/methods'
import { dispose } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { EXIT, UsageError } from '../errors'
import { writeRandomModel } from '../testing/random-model'
import { convertCommand } from './convert'

let folder: string
const flags = (composition: string, out: string) => ({
  model: join(folder, 'model'),
  backend: 'wasm',
  compressor: composition,
  artifacts: [],
  out: join(folder, out),
})

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-convert-'))
  await writeRandomModel(join(folder, 'model'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

async function weight(model: Model, name: string): Promise<number[]> {
  const tensor = await model.weights.get(name)
  const values = [...(await tensor.data())]
  dispose(tensor)
  return values
}

describe('kvloom convert', () => {
  it('writes the model that the composition runs on', async () => {
    const written = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const exitCode = await convertCommand(flags('kv-latent(keyDim=12, valueDim=24)', 'narrow'))
    expect(exitCode).toBe(EXIT.ok)
    expect(String(written.mock.calls.at(-1)?.[0])).toMatch(/144 cached numbers a token instead of 256\n$/)
    written.mockRestore()

    const [original, loaded] = [await loadModel(join(folder, 'model')), await loadModel(join(folder, 'narrow'))]
    const applied = await applyModelStages(original, ready(kvLatent({ keyDim: 12, valueDim: 24 })))
    expect(loaded.shape).toEqual({ ...applied.shape, name: loaded.shape.name })
    for (const name of original.weights.names()) expect(await weight(loaded, name)).toEqual(await weight(applied, name))
    for (const model of [original, loaded, applied]) model.dispose()
  })

  it('refuses what no model file holds', async () => {
    await expect(convertCommand(flags('kv-latent+kivi(group=4, residual=4)', 'a'))).rejects.toThrow(UsageError)
    await expect(convertCommand(flags('none', 'b'))).rejects.toThrow(/nothing to convert/)
    await expect(convertCommand(flags('kvsharer(map=[0, 0])', 'c'))).rejects.toThrow(/shares layers/)
  })
})
