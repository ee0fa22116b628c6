import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import { beforeAll, describe, expect, it } from 'vitest'
import { needsCalibration, ready } from '../artifacts'
import { openCache } from '../cache/open'
import { compose, exceptLayers, onLayers } from '../compose'
import type { CalibrationRun, HostTensor } from '../contract'
import { defineQuantizer } from '../define'
import { defineTransform } from '../define-transform'
import { evenWindows } from '../merge-zones'
import { guess, model, random } from '../testing/stage-toys'
import { calibrate } from './calibrate'

/** Rows of two texts of so many tokens, from a seed. */
const runOf = (tokens: number): CalibrationRun => {
  const rows = (layer: number, seed: number, dim: number): readonly HostTensor[] =>
    [0, 1].map((text) => random(seed + layer + 31 * text, [model.kvHeads, tokens, dim]))
  return {
    model,
    weights: { shape: model, names: () => [], get: () => Promise.reject(new Error('no weights')) },
    rows: async (layer) => ({ keys: rows(layer, 1, model.keyDim), values: rows(layer, 2, model.valueDim) }),
    gradients: () => Promise.reject(new Error('no gradients')),
    hidden: () => Promise.reject(new Error('no hidden states')),
    sentences: () => Promise.reject(new Error('no sentences')),
  }
}

/** A quantizer that takes 16 rows together, and never none; it learns one number. */
const groups = defineQuantizer({
  name: 'groups',
  options: {},
  rope: 'pre',
  rowsPerGroup: () => 16,
  window: () => evenWindows({ block: 16 }),
  fit: () => ({
    scope: 'layer',
    run: async ({ target }) => ({ json: target.map(({ shape }) => shape[1] ?? 0), tensors: {} }),
  }),
  quantizer: () => ({
    layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
    rowsPerGroup: 16,
    theoreticalBitsPerValue: 32,
    encode: (rows) => {
      if (!rows.shape[1]) throw new Error('asked to encode nothing')
      return { rows: tf.add(rows, 0) }
    },
    decode: ({ rows }) => tf.clone(rows),
  }),
})

describe('calibrate', () => {
  beforeAll(async () => {
    await tf.setBackend('cpu')
    await registerKernels('cpu')
  })

  it.each([9, 16, 40])(
    'hands on texts of %i tokens to what is predicted from them, in groups of 16',
    async (tokens) => {
      const before = tf.memory().numTensors
      const fitted = await calibrate(compose(guess(false), groups()), runOf(tokens))
      const [artifact] = fitted.artifacts
      expect(artifact?.json).toMatchObject({ '3.keys': [tokens, tokens], '3.values': [tokens, tokens] })
      openCache(model, fitted).dispose()
      expect(tf.memory().numTensors).toBe(before)
    },
  )

  it.each([
    ['every layer of the model is left out', exceptLayers([0, 1, 2, 3], groups()), true],
    ['it is put on one layer and left out there', exceptLayers([1], onLayers([1], groups())), false],
    ['it is put on no layer', onLayers([], groups()), false],
  ])('opens a cache where a stage that learns acts nowhere: %s', async (_, compressor, needed) => {
    expect(needsCalibration(compressor)).toBe(needed)
    if (!needed) openCache(model, ready(compressor)).dispose()
    const asked = { ...runOf(40), rows: () => Promise.reject(new Error('nothing is to be fitted')) }
    const fitted = await calibrate(compressor, asked)
    expect(fitted.artifacts.map(({ stage }) => stage)).toEqual(needed ? ['groups'] : [])
    openCache(model, fitted).dispose()
    openCache(model, ready(compressor, fitted.artifacts)).dispose()
  })

  it.each(['pre', 'post'] as const)('fits on keys as the layer stores them: %s RoPE', async (side) => {
    const seen: Record<string, HostTensor> = {}
    const learner = defineTransform({
      name: 'learner',
      options: {},
      rope: side,
      fit: () => ({
        scope: 'layer',
        run: async ({ layer, part, target }) => {
          seen[`${layer}.${part}`] = target[1] as HostTensor
          return { json: {}, tensors: {} }
        },
      }),
      transform: (_, { heads, dim }) => ({
        fitted: 'model',
        needs: {},
        main: { heads, dim },
        encode: ([rows]) => ({ main: tf.clone(rows as tf.Tensor) }),
        decoder: () => ({}),
      }),
    })
    const before = tf.memory().numTensors
    const run = runOf(6)
    await calibrate(learner(), run)
    const [, keys] = (await run.rows(2)).keys
    const [, values] = (await run.rows(2)).values
    expect([...(seen['2.values']?.values ?? [])]).toEqual([...(values?.values ?? [])])
    const [dim, pairs] = [model.keyDim, model.keyDim / 2]
    const expected = [...(keys?.values ?? [])].map((x, at, all) => {
      const [position, c] = [Math.floor(at / dim) % 6, at % dim]
      const angle = side === 'pre' ? 0 : position * (model.rope?.frequencies[c % pairs] ?? 0)
      const partner = all[at + (c < pairs ? pairs : -pairs)] ?? 0
      return x * Math.cos(angle) + (c < pairs ? -1 : 1) * partner * Math.sin(angle)
    })
    expected.forEach((x, at) => {
      expect(seen['2.keys']?.values[at]).toBeCloseTo(x, 5)
    })
    expect(tf.memory().numTensors).toBe(before)
  })

  it('refuses to weigh keys after RoPE by gradients before anything is fitted', async () => {
    const weighs = defineQuantizer({
      name: 'weighs',
      options: {},
      rope: 'post',
      fit: () => ({ scope: 'layer', gradients: true, run: async () => ({ json: {}, tensors: {} }) }),
      quantizer: () => groups().stages[0]?.bind(undefined as never) as never,
      rowsPerGroup: () => 16,
      window: () => evenWindows({ block: 16 }),
    })
    const nothing = { ...runOf(40), rows: () => Promise.reject(new Error('fitted')) }
    await expect(calibrate(weighs(), nothing)).rejects.toThrow(
      /weighs cannot be fitted: layer 0 stores keys after RoPE/,
    )
  })
})
