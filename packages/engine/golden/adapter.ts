/** Cases made by huggingface/transformers: what the engine computes for a text, what it generates, and how it tokenizes. */
import { type KVCompressor, openCache, ready } from '@kvloom/core'
import {
  type CaseAdapter,
  compareArrays,
  type GoldenCase,
  GoldenError,
  type NdArray,
  numberOption,
  numbersOption,
  type Outcome,
  type TensorResult,
  textOption,
} from '@kvloom/golden'
import { dispose, type Tensor } from '@tensorflow/tfjs-core'
import { generateAll } from '../src/generate'
import type { Model } from '../src/model'
import { prefill } from '../src/prefill'
import { casesOf } from './cases'

/** Largest error of keys and values over the largest of them: float32 in another summation order over 30 layers, as for the logits. */
const ROWS = 1e-4

/** Tokens that are run, and logits that are read, at once: neither divides a text. */
const CHUNK = { tokens: 37, logits: 20 }

const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/**
 * The engine against transformers.
 * @param open gives the model that the data was made with; asked for once, when the first case runs
 */
export function engineAdapter(open: () => Promise<Model>): CaseAdapter {
  let opened: Promise<Model> | undefined
  return {
    method: 'engine',
    cases: casesOf,
    async run(golden) {
      opened ??= open()
      const model = await opened
      switch (golden.options['kind']) {
        case 'text':
          return textCase(golden, model)
        case 'greedy':
          return greedyCase(golden, model)
        case 'tokenizer':
          return tokenizerCase(golden, model)
        case 'chat-template':
          return templateCase(golden, model)
        default:
          return null
      }
    },
  }
}

/** Logits at some positions, the likelihood of every token, keys and values of some layers. */
async function textCase(golden: GoldenCase, model: Model): Promise<Outcome> {
  const ids = Int32Array.from((await golden.input('ids')).data)
  const wanted = numbersOption(golden, 'logitPositions')
  const results = new Map<string, NdArray>()
  const nll = new Float32Array(ids.length - 1)
  const cache = openCache(model.shape, ready(exact))
  try {
    const visit = async (from: number, logits: Tensor): Promise<void> => {
      const [count = 0, vocabulary = 0] = logits.shape
      const values = (await logits.data()) as Float32Array
      for (let i = 0; i < count; i++) {
        const row = values.slice(i * vocabulary, (i + 1) * vocabulary)
        if (wanted.includes(from + i)) results.set(`logits.${from + i}`, { shape: [vocabulary], data: row })
        const next = ids[from + i + 1]
        if (next !== undefined) nll[from + i] = negativeLogLikelihood(row, next)
      }
    }
    await prefill(model, cache, ids, { chunk: CHUNK.tokens, logits: { visit, rows: CHUNK.logits } })
    results.set('nll', { shape: [nll.length], data: nll })
    for (const layer of numbersOption(golden, 'layers')) {
      const { keys, values } = await cache.materialize(layer)
      for (const [letter, rows] of [
        ['k', keys],
        ['v', values],
      ] as const)
        results.set(`layer${layer}.${letter}`, { shape: rows.shape, data: (await rows.data()) as Float32Array })
      dispose([keys, values])
    }
  } finally {
    cache.dispose()
  }
  return { tensors: await Promise.all(golden.expects.map((name) => compared(golden, name, results.get(name)))) }
}

async function compared(golden: GoldenCase, name: string, actual: NdArray | undefined): Promise<TensorResult> {
  if (!actual) throw new GoldenError(`Case ${golden.name} expects ${name}, which the engine does not give.`)
  const expected = await golden.expected(name)
  let largest = 0
  for (const x of expected.data) largest = Math.max(largest, Math.abs(x))
  const tolerance = name.startsWith('layer') ? { abs: ROWS * largest } : golden.tolerance(name)
  return compareArrays(name, actual, expected, tolerance)
}

/** -log softmax(logits)[id], in float64. */
function negativeLogLikelihood(logits: Float32Array, id: number): number {
  const largest = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0)
  return largest + Math.log(sum) - (logits[id] ?? Number.NaN)
}

const idsOf = (ids: ArrayLike<number>): NdArray => ({ shape: [ids.length], data: Int32Array.from(ids) })

async function greedyCase(golden: GoldenCase, model: Model): Promise<Outcome> {
  const ids = Int32Array.from((await golden.input('ids')).data)
  const expected = numbersOption(golden, 'newIds')
  const prompt = ids.slice(0, numberOption(golden, 'promptTokens'))
  const generated = await generateAll(model, { compressor: exact }, prompt, { maxNewTokens: expected.length })
  return { tensors: [compareArrays('newIds', idsOf(generated.ids), idsOf(expected), {})] }
}

async function tokenizerCase(golden: GoldenCase, model: Model): Promise<Outcome> {
  const ids = model.tokenizer.encode(textOption(golden, 'text', ''))
  return { tensors: [compareArrays('ids', idsOf(ids), idsOf(numbersOption(golden, 'ids')), {})] }
}

/** A chat of one question, written as the model's template has it; compared by its characters. */
async function templateCase(golden: GoldenCase, model: Model): Promise<Outcome> {
  const codes = (text: string): NdArray => idsOf(Array.from(text, (character) => character.codePointAt(0) ?? 0))
  const written = model.tokenizer.applyChatTemplate([{ role: 'user', content: textOption(golden, 'question', '') }])
  return { tensors: [compareArrays('text', codes(written), codes(textOption(golden, 'text', '')), {})] }
}
