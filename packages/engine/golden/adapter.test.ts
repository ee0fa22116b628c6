import { fileURLToPath } from 'node:url'
import { type GoldenResult, runGolden } from '@kvloom/golden'
import { describe, expect, it } from 'vitest'
import { loadModel } from '../src/model'
import { golden, goldenModel } from '../src/testing/golden'
import { engineAdapter } from './adapter'
import { casesOf } from './cases'

const FOLDER = fileURLToPath(new URL('../fixtures/golden/', import.meta.url))

async function run(open: Parameters<typeof engineAdapter>[0], only: readonly string[] = []): Promise<GoldenResult[]> {
  const results: GoldenResult[] = []
  for await (const result of runGolden([FOLDER], { adapters: [engineAdapter(open)], only })) results.push(result)
  return results
}

describe('the cases of the engine', () => {
  it('are one of each kind: a text, what follows it, a string of the tokenizer, the chat template', () => {
    const cases = casesOf({ ...golden })
    expect(cases.length).toBe(2 * golden.cases.length + golden.tokenizer.length + 1)
    expect(Object.keys(cases[0]?.expected ?? {})).toEqual([
      'logits.0',
      'logits.47',
      'logits.95',
      'nll',
      'layer0.k',
      'layer0.v',
      'layer15.k',
      'layer15.v',
    ])
    expect(cases.at(-1)?.options).toMatchObject({ question: 'What is the capital of France?' })
  })

  it('fail with the reason where the model is not there, which is asked for once', async () => {
    let asked = 0
    const results = await run(async () => {
      asked++
      throw new Error('no model')
    })
    expect(new Set(results.map(({ status, message }) => `${status}: ${message}`))).toEqual(
      new Set(['failed: no model']),
    )
    expect(results.length).toBeGreaterThan(10)
    expect(asked).toBe(1)
  })

  it('pass', async ({ skip }) => {
    const found = await goldenModel()
    if (found.path === null) return skip(found.reason)
    const model = await loadModel(found.path, { backend: 'wasm' })
    const results = await run(async () => model)
    model.dispose()
    expect(results.filter(({ status }) => status !== 'passed')).toEqual([])
  }, 600_000)
})
