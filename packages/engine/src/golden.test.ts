import { type KVCompressor, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { generateAll } from './generate'
import { loadModel, type Model } from './model'
import { prefill } from './prefill'
import { difference, golden, goldenModel, goldenTensors, negativeLogLikelihood } from './testing/golden'

/** float32 in another summation order over 30 layers; from golden.json. */
const LOGITS = 2e-3
const NLL = 1e-3
/** Largest error over the largest value of a layer's keys or values: float32 as above. */
const ROWS = 1e-4

const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** The golden text was decoded with transformers' `clean_up_tokenization_spaces`; kvloom gives the bytes of the tokens. */
const withoutSpacesBeforeMarks = (text: string): string => text.replace(/ (?=[.,?!])/g, '')

let skipped: string | null = null
let file = ''
beforeAll(async () => {
  const found = await goldenModel()
  if (found.path === null) skipped = found.reason
  else file = found.path
}, 900_000)

describe('SmolLM2-135M-Instruct on wasm against transformers', () => {
  let model: Model
  beforeAll(async () => {
    if (!skipped) model = await loadModel(file, { backend: 'wasm' })
  })
  beforeEach(({ skip }) => {
    if (skipped) skip(skipped)
  })
  afterAll(() => model?.dispose())

  it.each(golden.cases)('$name: logits, likelihoods, keys and values', async ({ file, layers, logitPositions }) => {
    const expected = await goldenTensors(file)
    const ids = await expected.integers('ids')
    const nll = await expected.floats('nll')
    const top5 = await expected.integers('top5_ids')
    const before = tf.memory()
    const cache = openCache(model.shape, ready(exact))
    const visit = async (from: number, logits: tf.Tensor): Promise<void> => {
      const [count = 0, vocab = 0] = logits.shape
      const values = (await logits.data()) as Float32Array
      for (let position = from; position < from + count; position++) {
        const row = values.subarray((position - from) * vocab, (position - from + 1) * vocab)
        if (logitPositions.includes(position))
          expect(
            difference(row, await expected.floats(`logits.${position}`)).absolute,
            `logits ${position}`,
          ).toBeLessThan(LOGITS)
        if (position + 1 < ids.length)
          expect(
            Math.abs(negativeLogLikelihood(row, ids[position + 1]!) - nll[position]!),
            `nll ${position}`,
          ).toBeLessThan(NLL)
        const best = row.reduce((top, logit, id) => (logit > row[top]! ? id : top), 0)
        expect(row[best]! - row[top5[position * 5]!]!, `top ${position}`).toBeLessThan(2 * LOGITS)
      }
    }
    await prefill(model, cache, ids, { chunk: 37, logits: { visit, rows: 20 } })
    for (const layer of layers) {
      const { keys, values } = await cache.materialize(layer)
      expect(
        difference(await keys.data(), await expected.floats(`layer${layer}.k`)).relative,
        `keys ${layer}`,
      ).toBeLessThan(ROWS)
      expect(
        difference(await values.data(), await expected.floats(`layer${layer}.v`)).relative,
        `values ${layer}`,
      ).toBeLessThan(ROWS)
      tf.dispose([keys, values])
    }
    cache.dispose()
    expect(tf.memory()).toMatchObject({ numTensors: before.numTensors, numBytes: before.numBytes })
  })

  it.each(golden.cases)('$name: 32 greedy tokens', async ({ file, greedy }) => {
    const prompt = (await (await goldenTensors(file)).integers('ids')).slice(0, greedy.promptTokens)
    const before = tf.memory().numBytes
    const { ids, text, reason } = await generateAll(model, { compressor: exact }, prompt, { maxNewTokens: 32 })
    expect([...ids]).toEqual(greedy.newIds)
    expect(withoutSpacesBeforeMarks(text)).toBe(greedy.text)
    expect(reason).toBe('length')
    expect(tf.memory().numBytes).toBe(before)
  })

  it('tokenizes as transformers and llama.cpp do', () => {
    for (const { text, ids } of golden.tokenizer) expect([...model.tokenizer.encode(text)], text).toEqual(ids)
    expect(model.tokenizer.applyChatTemplate([{ role: 'user', content: 'What is the capital of France?' }])).toBe(
      golden.chatTemplate,
    )
  })

  it('keeps the weights as the file has them, and says so', () => {
    expect(model.held.every(({ file, held }) => file === held)).toBe(true)
    expect(model.weightBytes).toBeLessThan(98_362_432)
  })
})

describe('SmolLM2-135M-Instruct on cpu against transformers', () => {
  it('the first tokens of moby-96: logits and likelihoods', async ({ skip }) => {
    if (skipped) skip(skipped)
    const expected = await goldenTensors('moby-96.safetensors')
    const ids = (await expected.integers('ids')).slice(0, 6)
    const nll = await expected.floats('nll')
    const model = await loadModel(file, { backend: 'cpu' })
    const cache = openCache(model.shape, ready(exact))
    const logits = await model.forward(cache, ids, 'promptEnd', { logits: 'all' })
    const values = (await logits!.data()) as Float32Array
    const row = (position: number) => values.subarray(position * 49152, (position + 1) * 49152)
    expect(difference(row(0), await expected.floats('logits.0')).absolute).toBeLessThan(LOGITS)
    for (let i = 0; i < 5; i++) expect(Math.abs(negativeLogLikelihood(row(i), ids[i + 1]!) - nll[i]!)).toBeLessThan(NLL)
    logits!.dispose()
    cache.dispose()
    model.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })
})
