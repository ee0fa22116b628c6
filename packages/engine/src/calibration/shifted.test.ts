import { rm } from 'node:fs/promises'
import { type HostTensor, OptionError } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadModel } from '../model'
import { type RandomLlama, text, writeRandomLlama } from '../testing/random-llama'
import { calibrationRun } from './run'
import type { Replace } from './shifted'

const SEQUENCES = [text(13, 1), text(9, 2)]
const same: Replace = (_, rows) => rows
const scaled = ({ shape, values }: HostTensor, by: number): HostTensor => ({
  shape,
  values: Float32Array.from(values, (x) => x * by),
})

describe('rows that compressed layers hand on', () => {
  let made: RandomLlama
  beforeAll(async () => {
    made = await writeRandomLlama({ model_type: 'llama' })
  })
  afterAll(() => rm(made.folder, { recursive: true }))

  it('are the rows themselves where nothing is replaced, and leave no tensors', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const before = tf.memory().numTensors
    const run = calibrationRun(model, { sequences: SEQUENCES })
    for (let layer = 0; layer < model.shape.layers; layer++)
      expect(await run.shifted?.(layer, same)).toEqual(await run.rows(layer))
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
  })

  it('change from the layer after the replaced one on, one sequence and layer at a time', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const run = calibrationRun(model, { sequences: SEQUENCES })
    const asked: string[] = []
    const replace: Replace = (layer, { keys, values }) => {
      asked.push(`${layer}: ${keys.shape[1]} tokens`)
      return layer === 1 ? { keys, values: scaled(values, 0.5) } : { keys, values }
    }
    const last = model.shape.layers - 1
    expect(await run.shifted?.(1, replace)).toEqual(await run.rows(1))
    const [shifted, rows] = [await run.shifted?.(last, replace), await run.rows(last)]
    expect(asked).toEqual(
      Array.from({ length: last }, (_, layer) => [`${layer}: 13 tokens`, `${layer}: 9 tokens`]).flat(),
    )
    for (const part of ['keys', 'values'] as const)
      for (const i of [0, 1]) {
        const [a, b] = [shifted?.[part][i]?.values ?? [], rows[part][i]?.values ?? []]
        const difference = Math.hypot(...[...a].map((x, at) => x - (b[at] ?? Number.NaN)))
        expect(difference).toBeGreaterThan(1e-3 * Math.hypot(...b))
      }
    model.dispose()
  })

  it('are asked for in ascending order', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const run = calibrationRun(model, { sequences: SEQUENCES })
    await run.shifted?.(1, same)
    await expect(run.shifted?.(0, same)).rejects.toThrow(OptionError)
    await expect(run.shifted?.(model.shape.layers, same)).rejects.toThrow(OptionError)
    model.dispose()
  })
})
