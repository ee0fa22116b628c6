import { rm } from 'node:fs/promises'
import { type CalibrationRun, type HostTensor, type KVCompressor, OptionError } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { engineBackends } from '../backend'
import { loadModel, type Model } from '../model'
import { difference } from '../testing/golden'
import { plainLlama } from '../testing/plain-llama'
import { type RandomLlama, type RandomLlamaSettings, text, writeRandomLlama } from '../testing/random-llama'
import { type CalibrationProgress, calibrationRun } from './run'

/** Largest error over the largest value of a layer: float32 against float64 over three layers. */
const ROWS = 1e-5
/** The same for squared gradients, which are sums over every later token. */
const GRADIENTS = 1e-4
/** Step of the finite differences, in float64: their own error is about its square. */
const STEP = 1e-4
/** The same across corners of relu, where the error is about the step itself; the rounding of a loss over it is 1e-7. */
const STEP_AT_CORNERS = 1e-7

const variants: readonly (readonly [string, RandomLlamaSettings])[] = [
  ['llama with grouped queries', { model_type: 'llama' }],
  [
    'llama with untied embeddings and YaRN',
    {
      model_type: 'llama',
      tie_word_embeddings: false,
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 64 },
    },
  ],
  ['qwen2 with biases', { model_type: 'qwen2', num_key_value_heads: 6 }],
  ['qwen3 with norms per head and wide heads', { model_type: 'qwen3', head_dim: 16 }],
  ['llama with all biases and gelu', { model_type: 'llama', attention_bias: true, mlp_bias: true, hidden_act: 'gelu' }],
  ['llama with gelu by tanh', { model_type: 'llama', hidden_act: 'gelu_new' }],
  ['llama with quick gelu', { model_type: 'llama', hidden_act: 'quick_gelu' }],
  ['llama with relu', { model_type: 'llama', hidden_act: 'relu' }],
  ['llama with relu squared', { model_type: 'llama', hidden_act: 'relu2' }],
]

describe.each(variants)('%s', (_, settings) => {
  let made: RandomLlama
  beforeAll(async () => {
    made = await writeRandomLlama(settings)
  })
  afterAll(() => rm(made.folder, { recursive: true }))

  it.each(engineBackends)(
    'on %s: rows as the float64 witness, gradients as its finite differences',
    async (backend) => {
      const model = await loadModel(made.folder, { backend })
      const before = tf.memory().numTensors
      const sequences = [text(13, 1), text(9, 2)]
      const run = calibrationRun(model, { sequences })
      for (let layer = 0; layer < model.shape.layers; layer++) {
        const [rows, squared] = await Promise.all([run.rows(layer), run.gradients(layer)])
        for (const [i, ids] of sequences.entries()) {
          const plain = plainLlama(made.config, made.weights, [...ids])
          expect(rows.keys[i]?.shape).toEqual([model.shape.kvHeads, ids.length, model.shape.keyDim])
          expect(difference(rows.keys[i]!.values, flat(plain.keysBeforeRope[layer]!)).relative).toBeLessThan(ROWS)
          expect(difference(rows.values[i]!.values, flat(plain.values[layer]!)).relative).toBeLessThan(ROWS)
          for (const part of ['keys', 'values'] as const) {
            const got = squared[part][i]!
            expect(got.shape).toEqual(rows[part][i]!.shape)
            expectGradients(made, ids, layer, part, got, 'hidden_act' in settings ? 5 : 12)
          }
        }
      }
      expect(tf.memory().numTensors).toBe(before)
      model.dispose()
    },
  )
})

describe('a run', () => {
  let made: RandomLlama
  let model: Model
  beforeAll(async () => {
    made = await writeRandomLlama({ model_type: 'llama', max_position_embeddings: 600 })
    model = await loadModel(made.folder)
  })
  afterAll(async () => {
    model.dispose()
    await rm(made.folder, { recursive: true })
  })

  it('takes sequences of several tiles', async () => {
    const ids = text(270, 3)
    const run = calibrationRun(model, { sequences: [ids] })
    const { keys, values } = await run.gradients(1)
    expectGradients(made, ids, 1, 'keys', keys[0]!, 2)
    expectGradients(made, ids, 1, 'values', values[0]!, 2)
  })

  it('runs sentences through a candidate, and tells what an uncompressed cache stores', async () => {
    const sentences = [text(12, 4), text(7, 5)]
    const before = tf.memory().numTensors
    const run = calibrationRun(model, { sequences: [], sentences })
    const [none, rows] = await Promise.all([run.hidden(null), run.sentences()])
    const plain = sentences.map((ids) => plainLlama(made.config, made.weights, [...ids]))
    for (const [i, { hidden, keys, values }] of plain.entries()) {
      expect(none[i]?.shape).toEqual([sentences[i]!.length, made.config.hiddenSize])
      expect(difference(none[i]!.values, flat(hidden)).relative).toBeLessThan(ROWS)
      for (let layer = 0; layer < model.shape.layers; layer++) {
        expect(rows[layer]?.keys[i]?.shape).toEqual([2, sentences[i]!.length, 8])
        expect(difference(rows[layer]!.keys[i]!.values, flat(keys[layer]!)).relative).toBeLessThan(ROWS)
        expect(difference(rows[layer]!.values[i]!.values, flat(values[layer]!)).relative).toBeLessThan(ROWS)
      }
    }
    const shared = await run.hidden(sharing({ 2: 1 }))
    for (const [i, ids] of sentences.entries()) {
      const { hidden } = plainLlama(made.config, made.weights, [...ids], { sources: { 2: 1 } })
      expect(difference(shared[i]!.values, flat(hidden)).relative).toBeLessThan(ROWS)
      expect(difference(shared[i]!.values, none[i]!.values).relative).toBeGreaterThan(100 * ROWS)
    }
    expect(tf.memory().numTensors).toBe(before)
  })

  it('goes through layers in ascending order, skipping those nobody asks for, and begins anew for an earlier one', async () => {
    const run = calibrationRun(model, { sequences: [text(10, 6)] })
    const plain = plainLlama(made.config, made.weights, [...text(10, 6)])
    const last = await run.rows(2)
    expect(difference(last.keys[0]!.values, flat(plain.keysBeforeRope[2]!)).relative).toBeLessThan(ROWS)
    expect(await run.rows(2)).toBe(last)
    const gradients = await run.gradients(2)
    await run.gradients(2)
    const first = await run.rows(0)
    expect(difference(first.keys[0]!.values, flat(plain.keysBeforeRope[0]!)).relative).toBeLessThan(ROWS)
    expect((await run.rows(2)).keys[0]!.values).toEqual(last.keys[0]!.values)
    expect((await run.gradients(1)).keys[0]!.shape).toEqual(first.keys[0]!.shape)
    expect((await run.gradients(2)).values[0]!.values).toEqual(gradients.values[0]!.values)
    for (const ask of [run.rows, run.gradients] as CalibrationRun['rows'][])
      for (const layer of [3, -1, 0.5]) await expect(ask(layer)).rejects.toThrow(OptionError)
  })

  it('reports, and stops when told; what was not finished is done again', async () => {
    const stop = new AbortController()
    const seen: CalibrationProgress[] = []
    const before = tf.memory().numTensors
    const run = calibrationRun(model, {
      sequences: [text(6, 7), text(5, 8)],
      signal: stop.signal,
      onProgress: (progress) => {
        seen.push(progress)
        if (seen.length === 11) stop.abort(new Error('enough'))
      },
    })
    run.progress?.({ layer: 0, layers: 3, stage: 'x', part: 'keys' })
    await run.rows(0)
    await expect(run.gradients(0)).rejects.toThrow('enough')
    await expect(run.rows(1)).rejects.toThrow('enough')
    expect(tf.memory().numTensors).toBe(before)
    expect(seen.slice(0, 4)).toEqual([
      { doing: 'fit', layer: 0, layers: 3, stage: 'x', part: 'keys' },
      { doing: 'rows', done: 1, total: 6 },
      { doing: 'rows', done: 2, total: 6 },
      { doing: 'gradients', done: 1, total: 12 },
    ])
    expect(seen).toHaveLength(11)
  })

  it('refuses texts it cannot run', () => {
    for (const ids of [[], [1], [1, 131], [-1, 0]])
      expect(() => calibrationRun(model, { sequences: [Int32Array.from(ids)] })).toThrow(OptionError)
    expect(() => calibrationRun(model, { sequences: [], sentences: [new Int32Array(601)] })).toThrow('601 positions')
  })
})

/** A candidate in which some layers read the rows of earlier ones. */
function sharing(sources: Readonly<Record<number, number>>): KVCompressor {
  return {
    card: { name: 'sharing', title: 'Sharing', summary: 'Layers that read the rows of others.', chunkInvariant: true },
    stages: [
      {
        kind: 'model',
        id: 'sharing',
        options: null,
        when: 'load',
        accepts: (space) => space,
        bind: () => ({ sourceLayer: (layer) => sources[layer] ?? layer }),
      },
    ],
    store: 'f32',
  }
}

/** Compares some squared gradients with finite differences of the loss of the float64 witness. */
function expectGradients(
  { config, weights }: RandomLlama,
  ids: Int32Array,
  layer: number,
  part: 'keys' | 'values',
  { shape, values }: HostTensor,
  count: number,
): void {
  const dim = shape[2]!
  const scale = [...values].reduce((top, value) => Math.max(top, value), 0)
  const step = config.activation === 'relu' ? STEP_AT_CORNERS : STEP
  expect(scale).toBeGreaterThan(0)
  for (let i = 0; i < count; i++) {
    const at = Math.floor(((i + 0.5) / count) * values.length)
    const loss = (change: number) =>
      lossOf(
        plainLlama(config, weights, [...ids], {
          rows: (l, p, rows) => {
            if (l === layer && p === part) rows[Math.floor(at / dim)]![at % dim]! += change
          },
        }).logits,
        ids,
      )
    const slope = (loss(step) - loss(-step)) / (2 * step)
    expect(
      Math.abs(values[at]! - slope ** 2),
      `${part} ${at} of layer ${layer}: ${values[at]}, ${slope ** 2}`,
    ).toBeLessThan(GRADIENTS * scale)
  }
}

/** Summed next-token loss. */
function lossOf(logits: readonly Float64Array[], ids: Int32Array): number {
  let total = 0
  for (let t = 0; t + 1 < ids.length; t++) {
    const row = logits[t]!
    const top = row.reduce((a, b) => Math.max(a, b))
    total += top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - row[ids[t + 1]!]!
  }
  return total
}

const flat = (rows: readonly Float64Array[]): number[] => rows.flatMap((row) => [...row])
