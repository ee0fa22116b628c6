import { rm } from 'node:fs/promises'
import { OptionError, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { engineBackends } from './backend'
import { withWeights } from './changed-weights'
import { loadModel, type Model } from './model'
import { applyModelStages } from './model-stages'
import type { ModelConfig } from './models/config'
import { narrow, stage } from './testing/changed-model'
import { plainLlama } from './testing/plain-llama'
import { type RandomLlamaSettings, writeRandomLlama } from './testing/random-llama'
import { type TrainableModel, trainable } from './trainable'
import type { WeightValues } from './trained-weights'

/** Largest error over the largest slope of a weight: float32 sums over tokens against finite differences in float64. */
const GRADIENTS = 2e-4
/** Error of a loss, relative. */
const LOSSES = 1e-5
/** Step of the finite differences, before it is rounded to what float32 holds. */
const STEP = 2e-4
/** Numbers of each weight that are tried. */
const TRIED = 3

const ALL = [
  'attentionNorm',
  'attention.query',
  'attention.key',
  'attention.value',
  'attention.queryNorm',
  'attention.keyNorm',
  'attention.output',
  'mlpNorm',
  'mlp.gate',
  'mlp.up',
  'mlp.down',
  'finalNorm',
]
const text = (n: number, seed: number): Int32Array =>
  Int32Array.from({ length: n }, (_, i) => (i * 37 + seed * 11) % 131)

/** Every number of a model's weights. */
async function weightsOf(model: Model): Promise<Map<string, Float32Array>> {
  const all = new Map<string, Float32Array>()
  for (const name of model.weights.names()) {
    const tensor = await model.weights.get(name)
    all.set(name, ((await tensor.data()) as Float32Array).slice())
    tensor.dispose()
  }
  return all
}

/** Compares gradients of some numbers of every weight with finite differences of `loss`, a function of all weights. */
function expectSlopes(
  weights: ReadonlyMap<string, Float32Array>,
  gradients: WeightValues,
  loss: (weights: ReadonlyMap<string, Float32Array>) => number,
): void {
  for (const [name, gradient] of gradients) {
    const own = weights.get(name)!
    expect(gradient.length, name).toBe(own.length)
    const scale = gradient.reduce((top, g) => Math.max(top, Math.abs(g)), 0)
    expect(scale, name).toBeGreaterThan(0)
    for (let i = 0; i < TRIED; i++) {
      const at = Math.floor(((i + 0.5) / TRIED) * own.length)
      const [low, high] = [-STEP, STEP].map((step) => {
        const changed = own.slice()
        changed[at] = changed[at]! + step
        return { value: changed[at]!, loss: loss(new Map([...weights, [name, changed]])) }
      })
      const slope = (high!.loss - low!.loss) / (high!.value - low!.value)
      expect(Math.abs(gradient[at]! - slope), `${name} ${at}: ${gradient[at]}, ${slope}`).toBeLessThan(
        GRADIENTS * scale,
      )
    }
  }
}

const logSum = (row: Float64Array): number => {
  const top = row.reduce((a, b) => Math.max(a, b))
  return top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0))
}

/** Summed next-token loss of the float64 witness. */
const nextTokenLoss = (config: ModelConfig, weights: ReadonlyMap<string, Float32Array>, ids: Int32Array): number =>
  plainLlama(config, weights, [...ids])
    .logits.slice(0, -1)
    .reduce((sum, row, t) => sum + logSum(row) - row[ids[t + 1]!]!, 0)

/** Summed KL(teacher || model) of the float64 witness. */
function divergence(taught: readonly Float64Array[], logits: readonly Float64Array[]): number {
  let sum = 0
  for (let t = 0; t + 1 < logits.length; t++) {
    const [p, q] = [taught[t]!, logits[t]!]
    const [ofP, ofQ] = [logSum(p), logSum(q)]
    p.forEach((each, i) => {
      sum += Math.exp(each - ofP) * (each - ofP - (q[i]! - ofQ))
    })
  }
  return sum
}

const variants: readonly (readonly [string, RandomLlamaSettings])[] = [
  ['llama with grouped queries', { model_type: 'llama' }],
  ['llama with untied embeddings', { model_type: 'llama', tie_word_embeddings: false }],
  ['qwen2 with biases', { model_type: 'qwen2', num_key_value_heads: 6 }],
  ['qwen3 with norms per head and wide heads', { model_type: 'qwen3', head_dim: 16 }],
  ['llama with all biases and gelu', { model_type: 'llama', attention_bias: true, mlp_bias: true, hidden_act: 'gelu' }],
]

describe.each(variants)('%s', (_, settings) => {
  it.each(engineBackends)(
    'on %s: gradients of all weights as finite differences of the float64 witness',
    async (backend) => {
      const made = await writeRandomLlama(settings)
      const model = await loadModel(made.folder, { backend })
      const before = tf.memory().numTensors
      const opened = await trainable(model, ALL)
      const ids = text(13, 1)
      const { nextToken, divergence: none, gradients } = await opened.sequenceGradients(ids, 'next-token', null, ALL)
      expect(none).toBeNull()
      const expected = nextTokenLoss(made.config, made.weights, ids)
      expect(Math.abs(nextToken / expected - 1)).toBeLessThan(LOSSES)
      const names = [...made.weights.keys()].filter((name) => !['embedding', 'output'].includes(name))
      expect([...gradients.keys()].sort()).toEqual(names.sort())
      expectSlopes(made.weights, gradients, (weights) => nextTokenLoss(made.config, weights, ids))
      opened.dispose()
      expect(tf.memory().numTensors).toBe(before)
      model.dispose()
      await rm(made.folder, { recursive: true })
    },
  )
})

describe('a narrow student of a model', () => {
  let original: Model
  let student: Model
  let weights: Map<string, Float32Array>
  let teacherWeights: Map<string, Float32Array>
  let teacher: TrainableModel
  let opened: TrainableModel
  let folder: string
  beforeAll(async () => {
    const made = await writeRandomLlama({ model_type: 'llama', head_dim: 16 })
    folder = made.folder
    original = await loadModel(folder)
    student = await applyModelStages(original, ready(stage(narrow)))
    ;[weights, teacherWeights] = [await weightsOf(student), await weightsOf(original)]
    teacher = await trainable(original, [])
    opened = await trainable(student, ALL)
  })
  afterAll(async () => {
    for (const each of [teacher, opened, student, original]) each.dispose()
    await rm(folder, { recursive: true })
  })

  it('has gradients of its divergence from the original', async () => {
    const ids = text(11, 2)
    const found = await opened.sequenceGradients(ids, 'teacher', teacher, ALL)
    const taught = plainLlama(original.config, teacherWeights, [...ids]).logits
    const loss = (all: ReadonlyMap<string, Float32Array>) =>
      divergence(taught, plainLlama(student.config, all, [...ids]).logits)
    expect(Math.abs(found.divergence! / loss(weights) - 1)).toBeLessThan(LOSSES)
    expectSlopes(weights, found.gradients, loss)
    expect(await opened.losses(ids, teacher)).toEqual({ nextToken: found.nextToken, divergence: found.divergence })
  })

  it.each(['attention', 'layer'] as const)('has gradients of a layer by itself, compared at %s', async (target) => {
    const ids = text(11, 3)
    const number = 1
    const states = await teacher.layerStates(ids, target)
    const found = await opened.layerGradients(number, states[number]!, target, ALL)
    const plainTeacher = plainLlama(original.config, teacherWeights, [...ids])
    const wanted = (target === 'attention' ? plainTeacher.middles : plainTeacher.outputs)[number]!
    // The layer's input is the original's: the witness runs a model of one layer, whose embedding is that input.
    const input = plainTeacher.outputs[number - 1]!
    const config = { ...student.config, layers: 1, vocabSize: ids.length }
    const loss = (all: ReadonlyMap<string, Float32Array>) => {
      const alone = new Map([['finalNorm', all.get('finalNorm')!]])
      alone.set('embedding', Float32Array.from(input.flatMap((row) => [...row])))
      for (const [name, values] of all)
        if (name.startsWith(`layers.${number}.`)) alone.set(name.replace(/^layers\.\d+/, 'layers.0'), values)
      const plain = plainLlama(config, alone, [...ids.keys()])
      const rows = (target === 'attention' ? plain.middles : plain.outputs)[0]!
      return rows.reduce((sum, row, t) => sum + Math.hypot(...row.map((x, i) => x - wanted[t]![i]!)), 0)
    }
    expect(Math.abs(found.loss / loss(weights) - 1)).toBeLessThan(LOSSES)
    const parts =
      target === 'attention' ? ['attentionNorm', ...ALL.filter((part) => part.startsWith('attention.'))] : ALL
    const names = [...weights.keys()].filter((name) => parts.some((part) => name === `layers.1.${part}`))
    expect([...found.gradients.keys()].sort()).toEqual(names.sort())
    expectSlopes(weights, found.gradients, loss)
  })

  it('takes new weights, gives those of some parts alone, and becomes a model', async () => {
    const ids = text(9, 4)
    const before = await opened.losses(ids)
    const changed = new Map(
      [...weights].filter(([name]) => name !== 'embedding').map(([name, each]) => [name, each.map((x) => 0.9 * x)]),
    )
    opened.set(changed)
    const [memory, losses] = [tf.memory().numTensors, await opened.losses(ids)]
    expect(losses.nextToken).not.toBe(before.nextToken)
    const expected = nextTokenLoss(student.config, new Map([...weights, ...changed]), ids)
    expect(Math.abs(losses.nextToken / expected - 1)).toBeLessThan(LOSSES)
    const { gradients } = await opened.sequenceGradients(ids, 'next-token', null, ['attention.key', 'mlp.down'])
    expect(new Set([...gradients.keys()].map((name) => name.replace(/^layers\.\d+\./, '')))).toEqual(
      new Set(['attention.key', 'mlp.down']),
    )
    expect(tf.memory().numTensors).toBe(memory)
    const model = await withWeights(student, opened.values, 'trained')
    expect(model.shape).toEqual({ ...student.shape, fingerprint: 'trained' })
    const again = await trainable(model, [])
    expect(await again.losses(ids)).toEqual(losses)
    opened.set(weights)
    expect(await opened.losses(ids)).toEqual(before)
    again.dispose()
    model.dispose()
  })

  it('stops where it is told to, and leaves nothing behind', async () => {
    const before = tf.memory().numTensors
    let calls = 0
    const stop = () => {
      if (++calls === 5) throw new Error('enough')
    }
    await expect(opened.sequenceGradients(text(9, 5), 'teacher', teacher, ALL, stop)).rejects.toThrow('enough')
    expect(tf.memory().numTensors).toBe(before)
  })

  it('refuses what it cannot train', async () => {
    await expect(trainable(student, ['embedding'])).rejects.toThrow(OptionError)
    await expect(withWeights(student, new Map([['layers.0.mlp.up', new Float32Array(3)]]), 'x')).rejects.toThrow(
      OptionError,
    )
    await expect(withWeights(student, new Map([['layers.9.mlp.up', new Float32Array(3)]]), 'x')).rejects.toThrow(
      OptionError,
    )
    const states = { input: new Float32Array(48), output: new Float32Array(48) }
    await expect(opened.layerGradients(7, states, 'layer', ALL)).rejects.toThrow(OptionError)
  })
})
