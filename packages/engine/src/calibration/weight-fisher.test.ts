import { rm } from 'node:fs/promises'
import { NonFiniteError, OptionError } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { engineBackends } from '../backend'
import { withWeights } from '../changed-weights'
import { loadModel, type Model } from '../model'
import type { ModelConfig } from '../models/config'
import { plainLlama } from '../testing/plain-llama'
import { type RandomLlama, type RandomLlamaSettings, text, writeRandomLlama } from '../testing/random-llama'
import { type CalibrationProgress, calibrationRun } from './run'

/** Largest error over the largest number of a weight: float32 sums over tokens, squared, against finite differences in float64. */
const FISHER = 4e-4
/** Step of the finite differences, before it is rounded to what float32 holds. */
const STEP = 2e-4
/** Numbers of each weight that are tried. */
const TRIED = 4

/** Mean loss of the token that stands `ahead` tokens on, by the float64 witness. */
function lossOf(
  config: ModelConfig,
  weights: ReadonlyMap<string, Float32Array>,
  ids: Int32Array,
  ahead: number,
): number {
  const { logits } = plainLlama(config, weights, [...ids])
  let total = 0
  for (let t = 0; t + ahead < ids.length; t++) {
    const row = logits[t]!
    const top = row.reduce((a, b) => Math.max(a, b))
    total += top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - row[ids[t + ahead]!]!
  }
  return total / (ids.length - ahead)
}

/** Compares some numbers of every weight with the mean over the sequences of squared finite differences. */
function expectFisher(
  { config, weights }: RandomLlama,
  sequences: readonly Int32Array[],
  ahead: number,
  found: Awaited<ReturnType<NonNullable<ReturnType<typeof calibrationRun>['weightFisher']>>>,
): void {
  for (const [name, { shape, values }] of Object.entries(found)) {
    const own = weights.get(name)!
    expect(values.length, name).toBe(own.length)
    expect(
      shape.reduce((a, b) => a * b, 1),
      name,
    ).toBe(own.length)
    const scale = [...values].reduce((top, x) => Math.max(top, x), 0)
    expect(scale, name).toBeGreaterThan(0)
    for (let i = 0; i < TRIED; i++) {
      const at = Math.floor(((i + 0.5) / TRIED) * own.length)
      const squares = sequences.map((ids) => {
        const [low, high] = [-STEP, STEP].map((step) => {
          const changed = own.slice()
          changed[at] = changed[at]! + step
          return { value: changed[at]!, loss: lossOf(config, new Map([...weights, [name, changed]]), ids, ahead) }
        })
        return ((high!.loss - low!.loss) / (high!.value - low!.value)) ** 2
      })
      const expected = squares.reduce((sum, x) => sum + x, 0) / sequences.length
      expect(Math.abs(values[at]! - expected), `${name} ${at}: ${values[at]}, ${expected}`).toBeLessThan(FISHER * scale)
    }
  }
}

const variants: readonly (readonly [string, RandomLlamaSettings])[] = [
  ['llama with grouped queries', { model_type: 'llama' }],
  ['qwen2 with biases', { model_type: 'qwen2', num_key_value_heads: 6 }],
  ['qwen3 with norms per head and wide heads', { model_type: 'qwen3', head_dim: 16 }],
]

describe.each(variants)('%s', (_, settings) => {
  it.each(engineBackends)('on %s: Fisher information as finite differences of the float64 witness', async (backend) => {
    const made = await writeRandomLlama(settings)
    const model = await loadModel(made.folder, { backend })
    const before = tf.memory().numTensors
    const sequences = [text(13, 1), text(6, 2)]
    const run = calibrationRun(model, { sequences })
    const layered = model.weights.names().filter((name) => name.startsWith('layers.'))
    for (const ahead of [1, 2]) {
      // All weights with the next token, those of ReCalKV with the one after.
      const names = ahead === 1 ? layered : layered.filter((name) => /attention\.(key|value)$/.test(name))
      const found = await run.weightFisher!(names, { ahead })
      expect(Object.keys(found).sort()).toEqual([...names].sort())
      expectFisher(made, sequences, ahead, found)
    }
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
    await rm(made.folder, { recursive: true })
  })
})

describe('Fisher information of weights', () => {
  const KEY = 'layers.1.attention.key'
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
  const fisher = (sequences: readonly Int32Array[], names: readonly string[], ahead: number, tokens?: number) =>
    calibrationRun(model, { sequences }).weightFisher!(names, { ahead, ...(tokens === undefined ? {} : { tokens }) })

  it('is that of one sequence, also longer than a tile or with a single prediction', async () => {
    const VALUE = 'layers.2.attention.value'
    const long = [text(270, 3)]
    expectFisher(made, long, 2, await fisher(long, [KEY, VALUE], 2))
    for (const [n, ahead] of [
      [2, 1],
      [3, 2],
    ] as const) {
      const short = [text(n, 3)]
      const found = await fisher(short, [KEY, VALUE], ahead)
      // The first token attends to itself alone, whatever its key is.
      expect(found[KEY]?.values.every((x) => x === 0)).toBe(true)
      expectFisher(made, short, ahead, { [VALUE]: found[VALUE]! })
    }
  })

  it('cuts longer sequences into texts that are run alone, leaves out what is left over, and takes shorter ones whole', async () => {
    const [long, short] = [text(25, 8), text(4, 9)]
    const cut = await fisher([long, short], [KEY], 2, 10)
    expect(cut).toEqual(await fisher([long.slice(0, 10), long.slice(10, 20), short], [KEY], 2))
    expect(cut).not.toEqual(await fisher([long, short], [KEY], 2))
    expect(await fisher([long], [KEY], 2, 25)).toEqual(await fisher([long], [KEY], 2))
  })

  it('goes back no further than to the weights that are asked for, which come out the same', async () => {
    const seen: CalibrationProgress[] = []
    const sequences = [text(9, 4), text(7, 5)]
    const run = calibrationRun(model, { sequences, onProgress: (progress) => seen.push(progress) })
    const alone = await run.weightFisher!([KEY], { ahead: 2 })
    expect(seen).toHaveLength(2 * (3 + 2))
    expect(seen.at(-1)).toEqual({ doing: 'gradients', done: 10, total: 10 })
    const among = await run.weightFisher!(['layers.0.mlp.down', KEY, 'layers.2.attention.output'], { ahead: 2 })
    expect(seen.at(-1)).toEqual({ doing: 'gradients', done: 12, total: 12 })
    expect(among[KEY]).toEqual(alone[KEY])
    expect(await run.weightFisher!([], { ahead: 2 })).toEqual({})
  })

  it('is refused for weights of no layer, and where nothing is predicted', async () => {
    for (const name of ['embedding', 'finalNorm', 'layers.3.attention.key', 'layers.0.attention', `${KEY}.bias`, ''])
      await expect(fisher([text(9, 6)], [name], 1), name).rejects.toThrow(OptionError)
    for (const ahead of [0, -1, 1.5, Number.NaN])
      await expect(fisher([text(9, 6)], [KEY], ahead), `${ahead}`).rejects.toThrow(OptionError)
    for (const tokens of [0, 2, 2.5, Number.NaN])
      await expect(fisher([text(9, 6)], [KEY], 2, tokens), `${tokens}`).rejects.toThrow(OptionError)
    await expect(fisher([text(9, 6), text(2, 6)], [KEY], 2)).rejects.toThrow(/more than 2 tokens each/)
    await expect(fisher([], [KEY], 1)).rejects.toThrow(/one sequence at least/)
  })

  it('says so of weights that are not finite, stops when told, and leaves no tensors', async () => {
    const brokenAt = (name: string) => {
      const values = Float32Array.from(made.weights.get(name)!, (x, i) => (i === 0 ? Number.NaN : x))
      return withWeights(model, new Map([[name, values]]), 'broken')
    }
    const broken = [await brokenAt('finalNorm'), await brokenAt('layers.2.attention.value')] as const
    const before = tf.memory().numTensors
    const fisherOf = (of: Model) => calibrationRun(of, { sequences: [text(5, 7)] }).weightFisher!([KEY], { ahead: 1 })
    // Behind the last attention there is nothing that refuses them.
    expect((await fisherOf(broken[0]))[KEY]?.values.every(Number.isNaN)).toBe(true)
    await expect(fisherOf(broken[1])).rejects.toThrow(NonFiniteError)
    const stop = new AbortController()
    const run = calibrationRun(model, {
      sequences: [text(5, 7)],
      signal: stop.signal,
      onProgress: ({ doing }) => doing === 'gradients' && stop.abort(new Error('enough')),
    })
    await expect(run.weightFisher!([KEY], { ahead: 1 })).rejects.toThrow('enough')
    expect(tf.memory().numTensors).toBe(before)
    for (const each of broken) each.dispose()
  })
})
