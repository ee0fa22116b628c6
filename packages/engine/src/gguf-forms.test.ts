// GGUF files in every form of their keys, against llama.cpp (tools/engine-fixtures/gguf_forms.py).
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { EngineError } from './errors'
import { bytesSource } from './files/byte-source'
import { loadModel } from './model'
import { difference } from './testing/golden'
import { runToy } from './testing/toy-run'
import { toyFixture, toyIds } from './testing/toys'
import { type GgufToy, toyGguf } from './testing/toys-gguf'

/** Largest logit difference over the largest: float32 with sums in another order, and llama.cpp's angles, which it multiplies up pair by pair. */
const LOGITS = 3e-6

const { cases, tokens, logits } = await toyFixture<GgufToy>('llama-cpp')
const open = (toy: GgufToy) => loadModel({ file: bytesSource(toyGguf(toy), `${toy.name}.gguf`) })

describe('as llama.cpp computes it', () => {
  it.each(cases.filter(({ refused }) => !refused))('$name', async (toy) => {
    const model = await open(toy)
    const { all, greedy } = await runToy(model, toyIds(tokens, model.config.vocabSize), toy.greedy?.length ?? 0)
    expect(difference(all, logits(toy.name)).relative).toBeLessThan(LOGITS)
    expect(greedy).toEqual(toy.greedy)
    model.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })

  it.each(cases.filter(({ refused }) => refused))('refused: $name', async (toy) => {
    await expect(open(toy)).rejects.toBeInstanceOf(EngineError)
  })
})
