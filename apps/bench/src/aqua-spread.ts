// How far AQUA-KV's numbers scatter: the same 2,048 tokens scored with predictors that were fitted on several texts, and with
// exact rows held as f16 and as f32. One number of this method says little, since a code that flips on the rounding of a row
// changes every later layer of its token. Writes results/aqua-spread.json after each run; runs that are there are not repeated.
//
//   node dist/aqua-spread.js [--fits 5] [--bits 2] [--stores f16,f32] [--text FILE]
//
// The fits read the bundled calibration text, or FILE, from as many beginnings, 8 x 2,048 tokens each, as the reference does.
import { readFile, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { ready } from '@kvloom/core'
import { loadModel, type Model, resolveModel } from '@kvloom/engine'
import { CALIBRATION_TEXT_NAME, type Composition, calibrationText, compareRows, prepareComposition } from '@kvloom/eval'
import { composition } from '@kvloom/methods'
import { machine } from './harness'
import { type Group, here, idsOf, interruptSignal, planOf, showProgress } from './measurements'
import { rowErrors } from './row-error'
import { scatter, type TurnedText, turnedTexts } from './spread'

interface Run {
  readonly composition: string
  readonly text: string
  /** Character of the text at which the fit began to read. */
  readonly offset: number
  readonly store: string
  readonly perplexity: number
  readonly meanKld: number
  readonly top1: number
}

/** How well one fit stores rows. */
interface Fit {
  readonly composition: string
  readonly text: string
  readonly offset: number
  /** Squared error over squared length, mean over layers. */
  readonly rowError: { readonly keys: number; readonly values: number }
}

/** Tokens of the prompt on which rows are compared, and sinks among them: as the reference did. */
const [ROW_TOKENS, SINKS] = [512, 4]
const FILE = here('results/aqua-spread.json')

const { values: flags } = parseArgs({
  options: {
    fits: { type: 'string', default: '5' },
    bits: { type: 'string', default: '2' },
    stores: { type: 'string', default: 'f16,f32' },
    text: { type: 'string' },
  },
})
const fits = Number(flags.fits)
if (!Number.isInteger(fits) || fits < 1) throw new Error(`--fits ${flags.fits}: give a whole number from 1`)
const textName = flags.text === undefined ? CALIBRATION_TEXT_NAME : basename(flags.text)
const turned = turnedTexts(flags.text ? await readFile(flags.text, 'utf8') : await calibrationText(), fits)

const { groups } = JSON.parse(await readFile(here('fixtures/reference.json'), 'utf8')) as {
  groups: readonly (Group & { readonly id: string })[]
}
const group = groups.find(({ id }) => id === 'P')
if (!group) throw new Error('fixtures/reference.json has no group P')
const plan = planOf(group.plan)

let { runs, fits: fitted } = await before()
const signal = interruptSignal()
const stores = flags.stores.split(',')
const wanted = turned.flatMap((text) => stores.map((store) => ({ store, ...text })))
const missing = wanted.filter(({ store, offset }) => !runs.some((run) => run.store === store && isOf(run, offset)))
if (missing.length > 0 || turned.some(unread)) {
  const model = await loadModel((await resolveModel('smollm2-135m-instruct')).path, { backend: 'wasm' })
  const ids = await idsOf(model, group, plan)
  try {
    // Fits whose rows nobody compared yet but that ran are there already; the others come with their runs.
    for (const text of turned)
      if (unread(text) && !missing.some((m) => m.offset === text.offset)) await readBack(model, ids, text)
    if (missing.length > 0) await measure(model, ids)
  } finally {
    model.dispose()
  }
}
print()

function compositionOf(store: string): string {
  // Reconstructions are kept because that is faster; they are bit for bit the ones that would be rebuilt.
  return `none(store="${store}")+aqua-kv(bits=${flags.bits}, group=64, keepReconstruction=true)`
}

/** Whether the rows that a fit stores were not compared yet. */
function unread({ offset }: TurnedText): boolean {
  const composition = compositionOf('f32')
  return !fitted.some((fit) => fit.composition === composition && fit.text === textName && fit.offset === offset)
}

function isOf(run: Run, offset: number): boolean {
  return run.composition === compositionOf(run.store) && run.text === textName && run.offset === offset
}

async function before(): Promise<{ runs: readonly Run[]; fits: readonly Fit[] }> {
  try {
    const { runs = [], fits: known = [] } = JSON.parse(await readFile(FILE, 'utf8')) as {
      runs?: readonly Run[]
      fits?: readonly Fit[]
    }
    return { runs, fits: known }
  } catch {
    return { runs: [], fits: [] }
  }
}

async function measure(model: Model, ids: Int32Array): Promise<void> {
  const rows = new Map<string, (typeof missing)[number]>()
  const compositions: Composition[] = missing.map((row) => {
    const name = `${row.store}, fitted from character ${row.offset}`
    rows.set(name, row)
    return { name, compressor: composition(compositionOf(row.store)) }
  })
  await compareRows({
    model,
    backend: model.backend,
    ids,
    textName: 'WikiText-2 test',
    plan,
    compositions,
    decodeTokens: 0,
    signal,
    prepare: async ({ name, compressor }, busy) => {
      const row = rows.get(name)
      if (!row) throw new Error(`no row is called ${name}`)
      const prepared = await prepareComposition({
        model,
        compressor,
        data: { text: row.text },
        onProgress: ({ label, detail, secondsLeft }) => busy({ activity: label, detail, secondsLeft }),
        signal,
      })
      if (unread(row)) await readBack(model, ids, row)
      return prepared
    },
    onProgress: showProgress,
    onRow: async ({ name, result, error }) => {
      const row = rows.get(name)
      if (!row) return
      if (!result) return void process.stderr.write(`\n${name}: ${error?.message ?? 'interrupted'}\n`)
      const { perplexity, meanKld, top1 } = result.quality
      const { store, offset } = row
      const run = { composition: compositionOf(store), text: textName, offset, store, perplexity, meanKld, top1 }
      runs = [...runs, run]
      process.stderr.write(`\n${name}: perplexity ${perplexity.toFixed(3)}, mean KLD ${meanKld.toFixed(4)}\n`)
      await keep()
    },
  })
}

/** Compares rows as one fit stores them; exact rows are f32, so that nothing else tells them apart. */
async function readBack(model: Model, ids: Int32Array, { offset, text }: TurnedText): Promise<void> {
  const compressor = composition(compositionOf('f32'))
  const { artifacts } = await prepareComposition({ model, compressor, data: { text }, signal })
  const rowError = await rowErrors(model, ready(compressor, artifacts), ids.slice(0, ROW_TOKENS), SINKS)
  fitted = [...fitted, { composition: compositionOf('f32'), text: textName, offset, rowError }]
  await keep()
}

/** Runs of one composition on one text, each group with its scatter. */
function summaries() {
  const keys = new Set(runs.map(({ composition, text }) => JSON.stringify([composition, text])))
  return [...keys].map((key) => {
    const own = runs.filter(({ composition, text }) => JSON.stringify([composition, text]) === key)
    return {
      composition: own[0]?.composition ?? '',
      text: own[0]?.text ?? '',
      perplexity: scatter(own.map((run) => run.perplexity)),
      meanKld: scatter(own.map((run) => run.meanKld)),
      top1: scatter(own.map((run) => run.top1)),
    }
  })
}

async function keep(): Promise<void> {
  const { cpu, node } = machine()
  const report = {
    schemaVersion: 1,
    machine: { cpu, node },
    plan: group?.plan,
    summaries: summaries(),
    runs,
    rowTokens: ROW_TOKENS,
    fits: fitted,
  }
  await writeFile(FILE, `${JSON.stringify(report, null, 2)}\n`)
}

function print(): void {
  for (const { composition, text, perplexity, meanKld, top1 } of summaries())
    process.stdout.write(
      `${composition} fitted on ${text}, ${perplexity.runs} runs\n` +
        `  perplexity ${perplexity.mean.toFixed(3)} ± ${(perplexity.deviation ?? 0).toFixed(3)} (${perplexity.min.toFixed(3)} to ${perplexity.max.toFixed(3)})` +
        `, mean KLD ${meanKld.mean.toFixed(4)} ± ${(meanKld.deviation ?? 0).toFixed(4)}, top-1 ${top1.mean.toFixed(3)}\n`,
    )
  for (const { composition, text, offset, rowError } of fitted)
    process.stdout.write(
      `${composition} fitted on ${text} from character ${offset}: squared error of rows, keys ${rowError.keys.toFixed(5)}, values ${rowError.values.toFixed(5)}\n`,
    )
}
