import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { ModelMismatch, type ModelWeights, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DenseCache } from '../../../examples/dense-cache/dense-cache'
import { engineBackends } from './backend'
import { loadModel } from './model'
import { applyModelStages } from './model-stages'
import { resolveModel } from './models/resolve'
import { saveModel } from './save-model'
import { exact, ids, logitsOf, narrow, stage } from './testing/changed-model'
import { difference } from './testing/golden'
import { plainLlama } from './testing/plain-llama'
import { type RandomLlama, writeRandomLlama } from './testing/random-llama'

/** float32 against float64 over three layers, logits of about unit size. */
const LOGITS = 1e-4

let folder: string
beforeAll(async () => {
  folder = await fs.mkdtemp(path.join(os.tmpdir(), 'kvloom-stages-'))
})
afterAll(() => fs.rm(folder, { recursive: true }))

describe('a model of other sizes', () => {
  let made: RandomLlama
  beforeAll(async () => {
    made = await writeRandomLlama({ model_type: 'llama', head_dim: 16 })
  })
  afterAll(() => fs.rm(made.folder, { recursive: true }))

  it.each(engineBackends)(
    'on %s: runs as the float64 witness, is saved and loaded as the same model',
    async (backend) => {
      const base = await loadModel(made.folder, { backend })
      const model = await applyModelStages(base, ready(stage(narrow)))
      base.dispose()
      expect(model.shape).toMatchObject({ keyDim: 12, valueDim: 10, attentionScale: 0.2, transformedBy: ['changer'] })
      expect(model.shape.rope?.frequencies[1]).toBe(0.31)
      const values = new Map<string, Float32Array>()
      for (const name of model.weights.names()) {
        const weight = await model.weights.get(name)
        values.set(name, (await weight.data()) as Float32Array)
        weight.dispose()
      }
      expect(values.get('layers.1.attention.value')).toHaveLength(2 * 10 * 48)
      const plain = plainLlama(model.config, values, [...ids])
      const logits = await logitsOf(model)
      expect(
        difference(
          logits,
          plain.logits.flatMap((row) => [...row]),
        ).absolute,
      ).toBeLessThan(LOGITS)
      expect(difference(await logitsOf(model, new DenseCache(model.shape)), logits).absolute).toBeLessThan(LOGITS)

      const saved = path.join(folder, `narrow-${backend}`)
      await saveModel(model, saved)
      const again = await loadModel(saved, { backend })
      expect(again.shape).toEqual(model.shape)
      expect(again.config).toEqual(model.config)
      expect(await logitsOf(again)).toEqual(logits)
      await expect(applyModelStages(again, ready(stage(narrow)))).rejects.toThrow('went through it already')
      model.dispose()
      again.dispose()
      expect(tf.memory().numTensors).toBe(0)
    },
  )

  it('leaves a model alone that no stage changes', async () => {
    const base = await loadModel(made.folder)
    expect(await applyModelStages(base, ready(exact))).toBe(base)
    base.dispose()
  })

  it('keeps untouched weights packed', async () => {
    const tiny = await loadModel((await resolveModel('tiny')).path)
    const bump = (weights: ModelWeights): ModelWeights => ({
      shape: { ...weights.shape, fingerprint: 'bumped' },
      names: () => weights.names(),
      async get(name) {
        const weight = await weights.get(name)
        if (name !== 'layers.0.attention.value') return weight
        const zero = tf.zerosLike(weight)
        weight.dispose()
        return zero
      },
    })
    const changed = await applyModelStages(tiny, ready(stage(bump)))
    const changes = changed.held.filter((each, i) => each.held !== tiny.held[i]?.held)
    expect(changes).toMatchObject([{ name: 'layers.0.attention.value', held: 'f32' }])
    changed.dispose()
    tiny.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })

  it('refuses stages whose weights and sizes disagree', async () => {
    const base = await loadModel(made.folder)
    const before = tf.memory().numTensors
    const refused = async (change: (weights: ModelWeights) => Partial<ModelWeights>, onLayers?: number[]) => {
      const transform = (weights: ModelWeights) => ({
        shape: { ...weights.shape, fingerprint: 'other' },
        names: () => weights.names(),
        get: (name: string) => weights.get(name),
        ...change(weights),
      })
      const error: unknown = await applyModelStages(base, ready(stage(transform, onLayers))).catch((e: unknown) => e)
      expect(error).toBeInstanceOf(ModelMismatch)
      return (error as Error).message
    }
    const shape = { ...base.shape, fingerprint: 'other' }
    expect(await refused(() => ({ shape: base.shape }))).toContain('fingerprint')
    expect(await refused(() => ({ shape: { ...shape, valueDim: 8 } }))).toContain(
      'layers.0.attention.value of shape [32, 48]',
    )
    expect(await refused(() => ({ shape: { ...shape, rope: null } }))).toContain('rotation')
    expect(await refused(() => ({ shape: { ...shape, keyDim: 14 } }))).toContain('rotates 16 of 14')
    expect(await refused(() => ({ shape: { ...shape, kvHeads: 4 } }))).toContain('6 query heads on 4')
    expect(await refused(({ names }) => ({ names: () => [...names(), 'layers.0.extra'] }))).toContain('layers.0.extra')
    expect(await refused(({ names }) => ({ names: () => names().filter((name) => name !== 'finalNorm') }))).toContain(
      'finalNorm',
    )
    expect(await refused(() => ({}), [1])).toContain('some layers are left out')
    expect(tf.memory().numTensors).toBe(before)
    base.dispose()
  })
})
