// Every family and variant that the engine claims, against transformers 4.56 (tools/engine-fixtures/families.py).
import { ContextOverflow, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { engineBackends } from './backend'
import { loadModel } from './model'
import { prefill } from './prefill'
import { exact } from './testing/changed-model'
import { difference } from './testing/golden'
import { runToy } from './testing/toy-run'
import { type Toy, toyFixture, toyFolder, toyIds } from './testing/toys'

/** Largest logit difference over the largest logit: float32 with sums in another order, over three layers. */
const LOGITS = 3e-6

const { cases, tokens, logits } = await toyFixture<Toy>('transformers')

describe('as transformers computes it', () => {
  it('covers every family, activation, bias, kind of RoPE and window', () => {
    const has = (part: string): number => cases.filter(({ name }) => name.includes(part)).length
    for (const part of [
      'llama',
      'mistral',
      'qwen2',
      'qwen3',
      'gelu',
      'relu',
      'bias',
      'yarn',
      'linear',
      'window',
      'tied',
      'shards',
      'base',
    ])
      expect(has(part), part).toBeGreaterThan(1)
    expect(cases.length).toBeGreaterThan(90)
  })

  it.each(cases)('$name', async (toy) => {
    const model = await loadModel({ folder: toyFolder(toy) })
    const { vocabSize } = model.config
    const ids = toyIds(tokens, vocabSize)
    const expected = logits(toy.name)
    expect(model.shape.contextLength).toBe(toy.contextLength)
    const seen = Math.min(tokens, toy.contextLength)
    const { all, greedy } = await runToy(model, ids.slice(0, seen), toy.greedy?.length ?? 0)
    expect(difference(all, expected.subarray(0, seen * vocabSize)).relative).toBeLessThan(LOGITS)
    expect(greedy).toEqual(toy.greedy ?? [])
    if (seen < tokens) {
      // Beyond the window full attention is another computation, so it is refused.
      const cache = openCache(model.shape, ready(exact))
      await expect(prefill(model, cache, ids)).rejects.toBeInstanceOf(ContextOverflow)
      cache.dispose()
    }
    model.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })

  it.each(engineBackends)('with every activation on %s', async (backend) => {
    const activations = cases.filter(({ config, name }) => 'hidden_act' in config && name.startsWith('llama, '))
    expect(activations.length).toBeGreaterThan(9)
    for (const toy of activations) {
      const model = await loadModel({ folder: toyFolder(toy) }, { backend })
      const { all } = await runToy(model, toyIds(tokens, model.config.vocabSize), 0)
      expect(difference(all, logits(toy.name)).relative, toy.name).toBeLessThan(LOGITS)
      model.dispose()
    }
  })
})
