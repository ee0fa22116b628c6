/** A run of training as one HTML page: the loss of each phase and perplexity, against tokens trained. */

import { recovered, type TrainingRecord } from '@kvloom/training'
import * as Plot from '@observablehq/plot'
import * as format from './format'
import { htmlPage } from './html-page'
import { escapeHtml } from './html-tables'
import { colorOf } from './markers'
import { type PlotSize, svg, WIDTH } from './plots'

/** Steps that a point of the drawn loss is the mean of, at least; a curve has at most so many points. */
const MOST_POINTS = 200

/** Renders the record of a run. */
export function renderTrainingHtml(record: TrainingRecord): string {
  const title = `kvloom: training of ${record.model.name}`
  return htmlPage(
    title,
    `<header>
<h1>Training of ${escapeHtml(record.model.name)}</h1>
<p class="soft">${escapeHtml(summary(record))}</p>
${facts(record)}
</header>
${section('perplexity', 'Perplexity', (size) => perplexityPlot(record, size), 'On held-out text that was not trained on. Lines: the original model, and the changed one before any training.')}
${record.phases.map((phase, i) => section(`loss-${i}`, `Loss, ${phase.name}`, (size) => lossPlot(record, i, size), lossWords(phase.loss))).join('\n')}
<section aria-labelledby="numbers"><h2 id="numbers">Numbers</h2>
${perplexityTable(record)}
<details><summary>Settings</summary><pre>${escapeHtml(JSON.stringify({ ...record, curve: undefined, perplexities: undefined }, null, 2))}</pre></details>
</section>`,
  )
}

/** What came of it, in one sentence. */
function summary(record: TrainingRecord): string {
  const { dense, untrained, perplexities } = record
  const last = perplexities.at(-1)?.perplexity ?? untrained
  return `Perplexity ${format.number(untrained)} before training, ${format.number(last)} after it, ${format.number(dense)} of the original model: ${format.percent(recovered(record))} of what was lost is back.`
}

function facts({
  settings,
  tokensTrained,
  stages,
  phases,
  trainedWeights,
  seconds,
  sequences,
  heldOut,
}: TrainingRecord): string {
  const entries: [string, string][] = [
    ['Composition', stages.map(({ id, options }) => `${id} ${JSON.stringify(options)}`).join(' + ')],
    [
      'Tokens',
      `${tokensTrained === settings.tokens ? '' : `${tokensTrained} of `}${settings.tokens} in sequences of ${settings.sequence}, ${settings.batch} a step`,
    ],
    ['Text', `${sequences} sequences, ${heldOut} held out`],
    ['Phases', phases.map(({ name, steps }) => `${name}, ${steps} steps`).join('; ')],
    ['Trained weights', trainedWeights.toLocaleString('en')],
    ['Seed', String(settings.seed)],
    ['Time', `${Math.round(seconds.training)} s, ${Math.round(seconds.measuring)} s of measuring`],
  ]
  return `<dl class="facts">${entries.map(([term, value]) => `<div><dt>${term}</dt><dd>${escapeHtml(value)}</dd></div>`).join('')}</dl>`
}

function section(id: string, title: string, plot: (size: PlotSize) => string, caption: string): string {
  return `<section aria-labelledby="${id}"><h2 id="${id}">${escapeHtml(title)}</h2><figure><div class="wide">${plot('wide')}</div><div class="narrow">${plot('narrow')}</div><figcaption>${escapeHtml(caption)}</figcaption></figure></section>`
}

function lossWords(loss: TrainingRecord['phases'][number]['loss']): string {
  switch (loss) {
    case 'attention':
    case 'layer':
      return 'Distance of a layer’s output from the original model’s, mean over layers and tokens, over the hidden size.'
    case 'teacher':
      return 'KL(original || trained) of the next token, in nats.'
    case 'next-token':
      return 'Negative log-likelihood of the next token, in nats.'
  }
}

/** Perplexity against tokens trained, on a log axis. */
function perplexityPlot({ dense, untrained, perplexities }: TrainingRecord, size: PlotSize): string {
  const points = [{ tokens: 0, perplexity: untrained }, ...perplexities]
  return drawn(size, 'Line plot of perplexity by tokens trained', '↑ perplexity (log)', [
    ...[dense, untrained].map((value) => Plot.ruleY([value], { stroke: 'var(--ink-soft)', strokeDasharray: '2 3' })),
    Plot.line(points, { x: 'tokens', y: 'perplexity', stroke: colorOf(1), strokeWidth: 1.8 }),
    Plot.dot(points, {
      x: 'tokens',
      y: 'perplexity',
      r: 3,
      fill: colorOf(1),
      title: (p: { tokens: number; perplexity: number }) => `${p.tokens} tokens: ${format.number(p.perplexity)}`,
    }),
  ])
}

/** The loss of a phase against tokens trained. */
function lossPlot({ curve }: TrainingRecord, phase: number, size: PlotSize): string {
  const own = curve.filter((point) => point.phase === phase)
  const each = Math.max(1, Math.ceil(own.length / MOST_POINTS))
  const points = Array.from({ length: Math.floor(own.length / each) }, (_, i) => {
    const part = own.slice(i * each, (i + 1) * each)
    return { tokens: part.at(-1)?.tokens ?? 0, loss: part.reduce((sum, { loss }) => sum + loss, 0) / part.length }
  })
  return drawn(size, 'Line plot of the loss by tokens trained', '↑ loss (log)', [
    Plot.line(points, { x: 'tokens', y: 'loss', stroke: colorOf(2 + phase), strokeWidth: 1.8 }),
  ])
}

const drawn = (size: PlotSize, ariaLabel: string, label: string, marks: Plot.Markish[]): string =>
  svg(size, {
    width: WIDTH[size],
    height: 340,
    marginLeft: 58,
    marginBottom: 44,
    ariaLabel,
    x: { label: 'tokens trained →', grid: true, ...(size === 'narrow' ? { ticks: 4 } : {}) },
    y: { type: 'log', label, grid: true },
    marks,
  })

function perplexityTable({ dense, untrained, perplexities, phases }: TrainingRecord): string {
  const rows: [string, string, number][] = [
    ['original model', '', dense],
    ['before training', '0', untrained],
    ...perplexities.map(({ phase, tokens, perplexity }): [string, string, number] => [
      phases[phase]?.name ?? '',
      String(tokens),
      perplexity,
    ]),
  ]
  return `<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">phase</th><th scope="col">tokens</th><th scope="col">perplexity</th></tr></thead><tbody>${rows
    .map(
      ([phase, tokens, perplexity]) =>
        `<tr><th scope="row">${escapeHtml(phase)}</th><td>${tokens}</td><td>${format.number(perplexity)}</td></tr>`,
    )
    .join('')}</tbody></table></div>`
}
