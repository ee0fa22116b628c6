/** `kvloom compare`: a model, a text, compositions; a table, a JSON file and an HTML page. */
import { readFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { type Artifact, checkModel, KvloomError } from '@kvloom/core'
import { findKnownModel, type Model, type ResolvedModel } from '@kvloom/engine'
import {
  type Activity,
  type Composition,
  compare,
  goldenTrials,
  type PasskeyTrial,
  type Plan,
  type PreparedRow,
  passkeyFormSchema,
  protocolE,
  protocolP,
  protocolW,
  type Report,
  renderHtml,
  renderTable,
  trialsByForm,
  writeAtomic,
} from '@kvloom/eval'
import { messageInGrammar } from '../composition/cure'
import { EXIT, UsageError } from '../errors'
import { givenFitting } from '../given-artifacts'
import { bundledFile, DEFAULT_MODEL, openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { progressLine } from '../terminal/progress'
import { artifactsOf } from './artifacts'
import { chooseCompositions } from './compositions'

export interface CompareFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly text?: string
  readonly tokens?: number
  readonly protocol: string
  readonly chunk?: number
  readonly promptTokens?: number
  readonly scoreFrom?: number
  readonly decodeTokens: number
  readonly passkey?: number
  readonly passkeyTokens?: number
  readonly compressor: readonly string[]
  readonly composition: readonly string[]
  readonly artifacts: readonly string[]
  readonly config?: string
  readonly out: string
  readonly seed: number
}

/** Sizes that keep a comparison of ten rows within minutes on two cores; the tiny model reads bytes, so it gets more tokens. */
const SIZES = {
  tiny: { tokens: { P: 1024, E: 960, W: 1024 }, passkeyTrials: 5, passkeyTokens: 1000 },
  real: { tokens: { P: 768, E: 768, W: 768 }, passkeyTrials: 3, passkeyTokens: 300 },
} as const

/** @returns the exit code. */
export async function compareCommand(flags: CompareFlags): Promise<number> {
  const compositions = await chooseCompositions({
    compressor: [...flags.compressor, ...flags.composition],
    config: flags.config,
  })
  const given = await artifactsOf(
    flags.artifacts,
    compositions.map((c) => c.compressor),
  )
  return interruptible(async (signal) => {
    const { model, resolved } = await openModel(flags, signal)
    try {
      const sizes = resolved.source === 'tiny' ? SIZES.tiny : SIZES.real
      const protocol = protocolOf(flags.protocol, compositions)
      const { text, name } = await textOf(flags)
      const tokens = flags.tokens ?? sizes.tokens[protocol]
      const ids = model.tokenizer.encodeFirst(text, tokens + flags.decodeTokens, { special: false })
      const plan = planOf(protocol, Math.min(tokens, flags.tokens === undefined ? ids.length : tokens), flags)
      const passkeyTrials = await trialsOf(model, resolved.source === 'tiny', flags, sizes)
      const file = join(flags.out, 'report.json')
      const page = join(flags.out, 'report.html')
      const line = progressLine()
      const report = await compare({
        model,
        modelName: nameOf(flags, resolved, model),
        backend: model.backend,
        ids,
        textName: name,
        plan,
        compositions,
        decodeTokens: flags.decodeTokens,
        passkeyTrials,
        seed: flags.seed,
        file,
        signal,
        check: (row) => checkRow(row, model, given),
        onRow: (row) => {
          if (row.status !== 'failed') return
          line.stop()
          process.stderr.write(`kvloom: ${row.name} failed: ${row.error?.message ?? 'unknown reason'}\n`)
        },
        prepare: (row, busy) => prepareRow(row, model, given, flags, busy, signal),
        onProgress: ({ name: row, index, count, fraction, secondsLeft, activity, detail }) =>
          line.show({
            fraction,
            label: `${index + 1}/${count} ${row}${activity === null ? '' : `: ${activity}`}`,
            detail,
            secondsLeft,
          }),
      }).finally(() => line.stop())
      await writeAtomic(page, renderHtml(report))
      process.stdout.write(
        `${renderTable(report, { color: process.stdout.isTTY && !process.env['NO_COLOR'] })}\n\nReport: ${shown(page)}\nData:   ${shown(file)}\n`,
      )
      return outcome(report)
    } finally {
      model.dispose()
    }
  })
}

/** Whether a row can run on this model, with what was given for it. @throws what it would fail with, in the words of the command line */
async function checkRow({ compressor }: Composition, model: Model, given: readonly Artifact[]): Promise<void> {
  const { shapeOf } = await import('../calibration')
  try {
    const shape = shapeOf(model, compressor)
    checkModel(shape, compressor, givenFitting(given, shape, compressor))
  } catch (error) {
    if (!(error instanceof KvloomError)) throw error
    const said = new KvloomError(error.code, messageInGrammar(error), { cause: error })
    said.name = error.name
    throw said
  }
}

/** Fits what is missing and applies model stages; the code for it is loaded only for rows that need it. */
async function prepareRow(
  { compressor }: Composition,
  model: Model,
  given: readonly Artifact[],
  flags: CompareFlags,
  busy: (activity: Activity) => void,
  signal: AbortSignal,
): Promise<PreparedRow> {
  if (!compressor.stages.some((s) => s.fit || s.kind === 'model')) return {}
  const { artifactCacheDir, prepareComposition } = await import('../calibration')
  return prepareComposition({
    model,
    compressor,
    given,
    signal,
    cacheDir: artifactCacheDir(flags.cacheDir),
    onProgress: ({ label, detail, secondsLeft }) => busy({ activity: label, detail, secondsLeft }),
  })
}

/** `auto` is E as soon as something acts at the end of a prompt, W when every row is read as it is stored. */
function protocolOf(asked: string, compositions: readonly Composition[]): 'P' | 'E' | 'W' {
  const upper = asked.toUpperCase()
  if (upper === 'P' || upper === 'E' || upper === 'W') return upper
  if (asked !== 'auto')
    throw new UsageError(
      `unknown protocol "${asked}"; allowed: P (chunks over a compressed past), E (compress a prompt once), W (one prompt read as stored), auto.`,
    )
  if (compositions.some((c) => c.compressor.stages.some((s) => s.when === 'promptEnd'))) return 'E'
  const changing = compositions.filter((c) => c.compressor.stages.length > 0)
  return changing.length > 0 && changing.every((c) => c.compressor.ownRows === 'stored') ? 'W' : 'P'
}

function planOf(protocol: 'P' | 'E' | 'W', tokens: number, { chunk, promptTokens, scoreFrom }: CompareFlags): Plan {
  if (protocol === 'E') {
    if (scoreFrom !== undefined)
      throw new UsageError('--score-from belongs to protocols P and W; protocol E scores what follows --prompt-tokens.')
    return protocolE({
      tokens,
      ...(promptTokens === undefined ? {} : { promptTokens }),
      ...(chunk === undefined ? {} : { chunk }),
    })
  }
  const wish = {
    tokens,
    ...(scoreFrom === undefined ? {} : { scoreFrom }),
    ...(chunk === undefined ? {} : { chunk }),
  }
  if (protocol === 'W') return protocolW({ ...wish, ...(promptTokens === undefined ? {} : { promptTokens }) })
  if (promptTokens !== undefined)
    throw new UsageError('--prompt-tokens belongs to protocols E and W; protocol P scores from --score-from on.')
  return protocolP(wish)
}

async function textOf({ text }: CompareFlags): Promise<{ text: string; name: string }> {
  const path = text ?? bundledFile('text', 'sample.txt')
  try {
    return {
      text: await readFile(path, 'utf8'),
      name: text === undefined ? 'bundled sample (public domain)' : basename(path),
    }
  } catch (cause) {
    throw new UsageError(`the text ${path} cannot be read; --text takes a file of plain text.`, { cause })
  }
}

async function trialsOf(
  model: Model,
  tiny: boolean,
  flags: CompareFlags,
  sizes: { passkeyTrials: number; passkeyTokens: number },
): Promise<readonly PasskeyTrial[]> {
  const trials = flags.passkey ?? sizes.passkeyTrials
  if (trials === 0) return []
  const tokens = flags.passkeyTokens ?? sizes.passkeyTokens
  const filler = await readFile(bundledFile('text', 'sample.txt'), 'utf8')
  const tokenizer = {
    bosId: model.tokenizer.bosId,
    encode: (text: string) => model.tokenizer.encode(text, { bos: false, special: false }),
  }
  if (!tiny) return goldenTrials({ tokenizer, filler, trials, tokens, seed: flags.seed })
  const form = passkeyFormSchema.parse(JSON.parse(await readFile(bundledFile('model', 'passkey.json'), 'utf8')))
  return trialsByForm(form, {
    tokenizer,
    filler,
    trials,
    tokens: flags.passkeyTokens ?? Math.min(tokens, form.trial.tokens),
  })
}

/** The short name where there is one; file names and metadata are often cryptic. */
const nameOf = ({ model: asked }: CompareFlags, { source, path }: ResolvedModel, model: Model): string =>
  source === 'tiny'
    ? 'tiny'
    : source === 'path'
      ? basename(path)
      : (findKnownModel(asked ?? DEFAULT_MODEL)?.name ?? asked ?? model.shape.name)

const shown = (path: string): string => relative('.', path) || path

function outcome(report: Report): number {
  if (report.status === 'interrupted') {
    process.stderr.write('kvloom: interrupted; the report holds what was finished.\n')
    return EXIT.interrupted
  }
  return report.compositions.some((c) => c.status === 'failed') ? EXIT.failure : EXIT.ok
}
