// KV-Latent trained on the tiny model with several widths of keys and values, as the table of the paper has them, each from the same seed
// and text. Writes results/training.json and docs/kv-latent-training.md, which also shows the record of a longer run on another model.
//
//   node dist/training.js [--only "keyDim=16, valueDim=16"] [--page] [--keep FOLDER --name NAME --about TEXT]
//
// --only measures the rows that contain all of the texts; others are kept. --keep takes over training.json of a folder that `kvloom train`
// wrote, as results/training-NAME.json; TEXT says what it was trained on. --page only makes the page.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { loadModel } from '@kvloom/engine'
import { calibrationText, sampleText } from '@kvloom/eval'
import { composition } from '@kvloom/methods'
import { recovered, type TrainingRecord, textSequences, train } from '@kvloom/training'
import { keep, machine } from './harness'
import { here } from './measurements'
import { table } from './page'

/** Tokens of all steps of a row, and of a sequence. */
const TOKENS = 12_288
const LENGTH = 256
const HELD_OUT = 8
/** Widths of keys and values, of 32: halves and quarters of each, as in the paper's table; then the paper's frequencies. */
const ROWS = [
  ...[
    [16, 16],
    [8, 8],
    [16, 32],
    [8, 32],
    [32, 16],
    [32, 8],
    [8, 16],
    [16, 8],
  ].map(([keyDim, valueDim]) => `kv-latent(keyDim=${keyDim}, valueDim=${valueDim})`),
  'kv-latent(keyDim=16, valueDim=16, frequencies=modified)',
]

interface Row {
  readonly composition: string
  readonly measuredAt: string
  readonly record: TrainingRecord
}

/** One run of `kvloom train`, kept. */
interface LongRun {
  readonly schemaVersion: 1
  readonly machine: ReturnType<typeof machine>
  readonly name: string
  /** What it was trained on, a sentence for the page. */
  readonly about: string
  readonly record: TrainingRecord
}

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    page: { type: 'boolean', default: false },
    keep: { type: 'string' },
    name: { type: 'string', default: 'model' },
    about: { type: 'string', default: '' },
  },
})
async function rowsMeasured(): Promise<readonly Row[]> {
  const text = await readFile(here('results/training.json'), 'utf8').catch(() => '{ "rows": [] }')
  return (JSON.parse(text) as { readonly rows: readonly Row[] }).rows
}

async function measure(): Promise<void> {
  const model = await loadModel('tiny')
  const sequences = textSequences(await calibrationText(), model.tokenizer, { length: LENGTH })
  const heldOut = textSequences(await sampleText(), model.tokenizer, { length: LENGTH, most: HELD_OUT })
  for (const text of ROWS.filter((row) => flags.only.every((part) => row.includes(part)))) {
    process.stderr.write(`${text}\n`)
    const compressor = composition(text)
    const trained = await train({ model, compressor, sequences, heldOut, tokens: TOKENS })
    trained.model.dispose()
    const { curve: _, ...record } = trained.record
    rows.set(text, { composition: text, measuredAt: new Date().toISOString(), record: { ...record, curve: [] } })
    process.stdout.write(`${shown(trained.record.untrained)} to ${shown(last(trained.record))}: ${text}\n`)
    await keep('training', { tokens: TOKENS, rows: ROWS.flatMap((row) => rows.get(row) ?? []) })
  }
  model.dispose()
}

async function keepRecord(folder: string, name: string, about: string): Promise<void> {
  const record = JSON.parse(await readFile(join(folder, 'training.json'), 'utf8')) as TrainingRecord
  const kept: LongRun = { schemaVersion: 1, machine: machine(), name, about, record }
  await writeFile(here(`results/training-${name}.json`), `${JSON.stringify(kept, null, 2)}\n`)
}

async function page(): Promise<string> {
  const files = (await readdir(here('results/'))).filter((name) => /^training-.+\.json$/.test(name)).sort()
  const runs = await Promise.all(
    files.map(async (name) => JSON.parse(await readFile(here(`results/${name}`), 'utf8')) as LongRun),
  )
  return [
    '# Training KV-Latent',
    '',
    'What training brings back of the perplexity that narrower heads lose. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench training`; do not edit by hand.',
    '',
    'Every run: `kvloom train` with the phases of the method (layer by layer against the original, then end to end by KL to it); perplexity on text that',
    'was not trained on, by windows of the length that it is trained with.',
    '',
    ...tinyTable(),
    ...runs.flatMap(longRun),
  ].join('\n')
}

/** Keys against values. */
function tinyTable(): string[] {
  const measured = ROWS.flatMap((row) => rows.get(row) ?? [])
  const [first] = measured
  if (!first) return []
  const { settings, dense } = first.record
  return [
    '## Keys against values, tiny model',
    '',
    `Heads of 32 channels; perplexity of the original ${shown(dense)}. ${settings.tokens} tokens a row in sequences of ${settings.sequence}, seed ${settings.seed}; trained on chapters 4 to 13 of`,
    'Moby-Dick, measured on the beginning of chapter 103 and what follows, which the tiny model was not trained on either. *Numbers a token* are those cached in',
    'all layers and heads, of 512.',
    '',
    ...table(
      ['composition', 'numbers a token', 'untrained', 'layer-wise', 'end to end', 'recovered'],
      measured.map(({ composition: text, record }) => [
        `\`${text}\``,
        String(cached(text)),
        shown(record.untrained),
        shown(endOf(record, 0)),
        shown(last(record)),
        share(record),
      ]),
    ),
    '',
  ]
}

/** Cached numbers of a token: four layers of two heads. */
const cached = (text: string): number =>
  [...text.matchAll(/(?:keyDim|valueDim)=(\d+)/g)].reduce((sum, [, dim]) => sum + 8 * Number(dim), 0)

function longRun({ name: title, about, record }: LongRun): string[] {
  const { settings, tokensTrained, dense, untrained, perplexities, phases, seconds, stages, trainedWeights } = record
  const words = phases.map(
    ({ name, steps, loss, learningRate, passes }) =>
      `${name}: ${steps} steps, loss \`${loss}\`, rate ${learningRate}${passes > 1 ? `, ${passes} passes` : ''}`,
  )
  return [
    `## ${title}`,
    '',
    `${stages.map(({ id, options }) => `\`${id}\` ${JSON.stringify(options)}`).join(', ')}; ${tokensTrained} ${tokensTrained === settings.tokens ? '' : `of ${settings.tokens} `}tokens in sequences of ${settings.sequence}, ${settings.batch} a step, seed ${settings.seed}; ${trainedWeights} trained weights.`,
    ...(about === '' ? [] : [about]),
    `${words.join('; ')}. ${Math.round(seconds.training / 60)} minutes of steps, ${Math.round(seconds.measuring / 60)} of measuring.`,
    '',
    ...table(
      ['phase', 'tokens trained', 'perplexity', 'of the original'],
      [
        ['original', '', shown(dense), '1.00'],
        ['untrained', '0', shown(untrained), (untrained / dense).toFixed(2)],
        ...perplexities.map(({ phase, tokens, perplexity }) => [
          phases[phase]?.name ?? '',
          String(tokens),
          shown(perplexity),
          (perplexity / dense).toFixed(2),
        ]),
      ],
    ),
    '',
  ]
}

const shown = (perplexity: number): string => String(Number(perplexity.toPrecision(4)))
const last = ({ perplexities, untrained }: TrainingRecord): number => perplexities.at(-1)?.perplexity ?? untrained
const endOf = ({ perplexities }: TrainingRecord, phase: number): number =>
  perplexities.filter((point) => point.phase === phase).at(-1)?.perplexity ?? Number.NaN
const share = (record: TrainingRecord): string => `${(100 * recovered(record)).toFixed(1)} %`

const rows = new Map((await rowsMeasured()).map((row) => [row.composition, row]))
if (flags.keep !== undefined) await keepRecord(flags.keep, flags.name, flags.about)
if (!flags.page && flags.keep === undefined) await measure()
await writeFile(new URL('../../../docs/kv-latent-training.md', import.meta.url), await page())
