import type { TrainingRecord } from '@kvloom/training'
import { parseHTML } from 'linkedom'
import { describe, expect, it } from 'vitest'
import { renderTrainingHtml } from './training-html'

const record: TrainingRecord = {
  schemaVersion: 1,
  stages: [{ id: 'kv-latent', options: { keyDim: 16 } }],
  model: { name: 'a <model>', fingerprint: 'abc' },
  trained: 'abc+trained(1)',
  settings: { tokens: 1000, sequence: 10, batch: 1, seed: 0, learningRate: 1 },
  phases: [
    { name: 'layer-wise', loss: 'attention', steps: 60, learningRate: 1e-3, passes: 4, weights: ['attention.key'] },
    { name: 'end to end', loss: 'teacher', steps: 40, learningRate: 1e-4, passes: 1, weights: ['attention.key'] },
  ],
  tokensTrained: 1000,
  sequences: 30,
  heldOut: 2,
  trainedWeights: 12_345,
  dense: 4,
  untrained: 24,
  perplexities: [
    { phase: 0, tokens: 600, perplexity: 12 },
    { phase: 1, tokens: 1000, perplexity: 6 },
  ],
  curve: Array.from({ length: 100 }, (_, i) => ({
    phase: i < 60 ? 0 : 1,
    tokens: 10 * (i + 1),
    loss: 1 / (i + 1),
  })),
  seconds: { training: 65, measuring: 3 },
}

describe('the page of a training', () => {
  const { document } = parseHTML(renderTrainingHtml(record))

  it('says what came of it', () => {
    expect(document.querySelector('header p')?.textContent).toBe(
      'Perplexity 24 before training, 6 after it, 4 of the original model: 90.0 % of what was lost is back.',
    )
    expect(document.querySelector('h1')?.textContent).toBe('Training of a <model>')
    const rows = [...document.querySelectorAll('tbody tr')].map((row) => row.textContent)
    expect(rows).toEqual(['original model4', 'before training024', 'layer-wise60012', 'end to end10006'])
  })

  it('draws perplexity and the loss of each phase, for wide and narrow pages', () => {
    expect([...document.querySelectorAll('h2')].map((each) => each.textContent)).toEqual([
      'Perplexity',
      'Loss, layer-wise',
      'Loss, end to end',
      'Numbers',
    ])
    const plots = [...document.querySelectorAll('figure svg[role=img]')]
    expect(plots).toHaveLength(6)
    for (const plot of plots)
      expect(plot.querySelector('path[stroke], [aria-label=line] path')?.getAttribute('d')).toMatch(/^M[\d.,L]+$/)
    expect(document.querySelectorAll('figure svg circle')).toHaveLength(6)
  })
})
