// Runs compositions over the reference text and keeps what was measured in results/measurements.json: a row that is there is
// not run again unless asked, so an interrupted run goes on where it stopped and a part can be run alone.
import { createHash } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import type { KVCompressor } from '@kvloom/core'
import { loadModel, type Model, resolveModel } from '@kvloom/engine'
import {
  type Activity,
  type CalibrationData,
  type Composition,
  compareRows,
  type Footprint,
  type PasskeyResult,
  type PasskeyTrial,
  type Plan,
  type Progress,
  prepareComposition,
  protocolE,
  protocolP,
  protocolW,
  type ResultReport,
} from '@kvloom/eval'
import { composition } from '@kvloom/methods'
import { machine } from './harness'

/** How a group of rows is run. */
export type PlanWish =
  | { readonly protocol: 'P'; readonly tokens: number; readonly chunk: number; readonly scoreFrom: number }
  | { readonly protocol: 'E'; readonly tokens: number; readonly promptTokens: number; readonly chunk?: number }
  | {
      readonly protocol: 'W'
      readonly tokens: number
      readonly scoreFrom: number
      readonly scoreTo?: number
      readonly promptTokens?: number
      readonly chunk?: number
    }

/** On what fitted stages of a group are fitted: the first tokens of a text in `fixtures/`. Without one: on the bundled text, as by default. */
export interface CalibrationWish {
  readonly text: string
  readonly sequences: number
  readonly tokens: number
  readonly startToken: boolean
}

/** What a row is measured under. */
interface Conditions {
  readonly plan: PlanWish
  readonly calibration?: CalibrationWish
  /** A file of passkey trials in `fixtures/`, which every row of the group runs besides. */
  readonly passkeys?: string
}

/** What one composition gave. */
export interface Measurement extends Conditions {
  readonly composition: string
  readonly passkey?: PasskeyResult
  readonly measuredAt: string
  readonly machine: { readonly cpu: string; readonly node: string }
  readonly seconds: number
  readonly perplexity: number
  readonly meanKld: number
  readonly kld99: number
  readonly top1: number
  readonly footprint: Footprint
  /** What fitted stages ran with. */
  readonly artifacts: readonly { readonly stage: string; readonly fingerprint: string }[]
}

export interface Group extends Conditions {
  readonly id: string
  /** Of the first `idsHashed` ids (default: of all), as int32, little-endian. */
  readonly idsSha256: string
  readonly idsHashed?: number
  readonly compositions: readonly string[]
}

export const here = (path: string) => new URL(`../${path}`, import.meta.url)
const STORE = here('results/measurements.json')

/** Of anything that was measured, or is to be. */
const conditionsOf = ({ plan, calibration, passkeys }: Conditions): Conditions => ({
  plan,
  ...(calibration ? { calibration } : {}),
  ...(passkeys ? { passkeys } : {}),
})

const keyOf = (under: Conditions, composition: string): string => JSON.stringify([conditionsOf(under), composition])

/** Measured rows by what they were measured under and composition. */
export class Measurements {
  private constructor(private rows: Map<string, Measurement>) {}

  static async read(): Promise<Measurements> {
    return new Measurements(await Measurements.stored())
  }

  private static async stored(): Promise<Map<string, Measurement>> {
    let text: string
    try {
      text = await readFile(STORE, 'utf8')
    } catch {
      return new Map()
    }
    const { rows } = JSON.parse(text) as { rows: readonly Measurement[] }
    return new Map(rows.map((row) => [keyOf(row, row.composition), row]))
  }

  get(group: Conditions, composition: string): Measurement | undefined {
    return this.rows.get(keyOf(group, composition))
  }

  /** Adds a row and writes the file; rows that another process added meanwhile stay. */
  async put(row: Measurement): Promise<void> {
    const stored = await Measurements.stored()
    stored.set(keyOf(row, row.composition), row)
    this.rows = stored
    const partial = new URL(`${STORE.href}.${process.pid}`)
    await writeFile(partial, `${JSON.stringify({ schemaVersion: 2, rows: [...stored.values()] }, null, 2)}\n`)
    await rename(partial, STORE)
  }
}

export const planOf = (wish: PlanWish): Plan => {
  switch (wish.protocol) {
    case 'P':
      return protocolP(wish)
    case 'E':
      return protocolE(wish)
    case 'W':
      return protocolW(wish)
  }
}

export interface RunOptions {
  /** Run only compositions that contain one of these, and groups of that name; empty: all. */
  readonly only?: readonly string[]
  /** Run rows again that were measured before. */
  readonly fresh?: boolean
  readonly signal?: AbortSignal
}

/** Measures what is missing of all groups. @returns why rows failed, by composition. */
export async function measureMissing(
  groups: readonly Group[],
  measurements: Measurements,
  { only = [], fresh = false, signal }: RunOptions,
): Promise<Map<string, string>> {
  const failures = new Map<string, string>()
  const wanted = (group: Group, composition: string): boolean =>
    (only.length === 0 || only.some((part) => part === group.id || composition.includes(part))) &&
    (fresh || measurements.get(group, composition) === undefined)
  const jobs = groups
    .map((group) => ({ group, compositions: group.compositions.filter((c) => wanted(group, c)) }))
    .filter(({ compositions }) => compositions.length > 0)
  if (jobs.length === 0) return failures
  const { path } = await resolveModel('smollm2-135m-instruct')
  const model = await loadModel(path, { backend: 'wasm' })
  try {
    for (const { group, compositions } of jobs) {
      if (signal?.aborted) break
      await runGroup(model, group, compositions, measurements, failures, signal)
    }
  } finally {
    model.dispose()
    process.stderr.write('\n')
  }
  return failures
}

async function runGroup(
  model: Model,
  group: Group,
  texts: readonly string[],
  measurements: Measurements,
  failures: Map<string, string>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const plan = planOf(group.plan)
  const ids = await idsOf(model, group, plan)
  const data = group.calibration && (await dataOf(group.calibration))
  const compositions: Composition[] = []
  for (const text of texts) {
    try {
      compositions.push({ name: text, compressor: composition(withTokens(text, model)) })
    } catch (error) {
      failures.set(text, messageOf(error))
    }
  }
  if (compositions.length === 0) return
  let started = performance.now()
  await compareRows({
    model,
    backend: model.backend,
    ids,
    textName: 'WikiText-2 test',
    plan,
    compositions,
    decodeTokens: 0,
    ...(group.passkeys ? { passkeyTrials: await trialsOf(group.passkeys) } : {}),
    prepare: async ({ compressor }, busy) => {
      const prepared = await prepare(model, compressor, data, busy, signal)
      started = performance.now()
      return prepared
    },
    onRow: async (row) => {
      if (row.status === 'failed') failures.set(row.name, row.error?.message ?? 'unknown reason')
      if (row.status !== 'done' || !row.result || !texts.includes(row.name)) return
      await measurements.put({
        composition: row.name,
        ...conditionsOf(group),
        measuredAt: new Date().toISOString(),
        machine: { cpu: machine().cpu, node: process.version },
        seconds: Math.round((performance.now() - started) / 1000),
        ...numbersOf(row.result),
        artifacts: row.artifacts,
      })
    },
    onProgress: showProgress,
    ...(signal ? { signal } : {}),
  })
}

/** One line on standard error that each report writes over. */
export function showProgress({ name, index, count, fraction, secondsLeft, activity, detail }: Progress): void {
  const left = secondsLeft === null ? '' : `, ${Math.ceil(secondsLeft / 60)} min left`
  const line = `${Math.floor(fraction * 100)} %  ${index}/${count - 1} ${name}${activity === null ? '' : `: ${activity}, ${detail}`}${left}`
  process.stderr.write(`\r${line.slice(0, 150).padEnd(150)}`)
}

function numbersOf({ quality, footprint, passkey }: ResultReport) {
  return {
    ...(passkey ? { passkey } : {}),
    perplexity: quality.perplexity,
    meanKld: quality.meanKld,
    kld99: quality.kld99,
    top1: quality.top1,
    footprint: { ...footprint, liveBits: footprint.liveBits ?? footprint.residentBits },
  }
}

/** The trials of a file: a question for all of them, context and answer of each. */
async function trialsOf(file: string): Promise<PasskeyTrial[]> {
  const { question, trials } = JSON.parse(await readFile(here(`fixtures/${file}`), 'utf8')) as {
    readonly question: readonly number[]
    readonly trials: readonly { readonly context: readonly number[]; readonly answer: readonly number[] }[]
  }
  return trials.map(({ context, answer }) => ({
    context: Int32Array.from(context),
    question: Int32Array.from(question),
    answer: Int32Array.from(answer),
    digits: { from: 0, to: answer.length },
  }))
}

const dataOf = async ({ text, ...rest }: CalibrationWish): Promise<CalibrationData> => ({
  ...rest,
  text: await readFile(here(`fixtures/${text}`), 'utf8'),
})

/** Artifacts are fitted once and kept in the user's cache. */
const prepare = (
  model: Model,
  compressor: KVCompressor,
  data: CalibrationData | undefined,
  busy: (activity: Activity) => void,
  signal: AbortSignal | undefined,
) =>
  prepareComposition({
    model,
    compressor,
    ...(data ? { data } : {}),
    onProgress: ({ label, detail, secondsLeft }) => busy({ activity: label, detail, secondsLeft }),
    ...(signal ? { signal } : {}),
  })

/** The ids of the reference text. @throws when they are not the reference's */
export async function idsOf(model: Model, { idsSha256, idsHashed }: Group, plan: Plan): Promise<Int32Array> {
  const text = await readFile(here('fixtures/wikitext2-test-head.txt'), 'utf8')
  const ids = model.tokenizer.encodeFirst(text, plan.tokens, { bos: false })
  const hashed = ids.slice(0, idsHashed ?? plan.tokens)
  const digest = createHash('sha256').update(new Uint8Array(hashed.buffer)).digest('hex')
  if (digest !== idsSha256) throw new Error(`the token ids differ from the reference's (sha256 ${digest})`)
  return ids
}

/** `$special` and `$punctuation` in a composition stand for token ids of the model: control tokens, and ASCII punctuation or space. */
function withTokens(text: string, { tokenizer }: Model): string {
  if (!text.includes('$')) return text
  const punctuation = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) =>
    /^[\s!-/:-@[-`{-~]+$/.test(tokenizer.decode([id], { special: false })),
  )
  return text
    .replaceAll('$special', `[${tokenizer.tokenFacts().specialIds.join(',')}]`)
    .replaceAll('$punctuation', `[${punctuation.join(',')}]`)
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** A signal that the first Ctrl-C aborts; the second one ends the process. */
export function interruptSignal(): AbortSignal {
  const stop = new AbortController()
  process.on('SIGINT', () => {
    if (stop.signal.aborted) process.exit(130)
    process.stderr.write('\nstopping after this step; what is measured is kept.\n')
    stop.abort()
  })
  return stop.signal
}
