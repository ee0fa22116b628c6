/** `kvloom compare`: a model, a text, compositions; a table, a JSON file and an HTML page. */
import { readFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import {
  artifactCacheDir,
  type Composition,
  compare,
  type ProtocolName,
  protocolFor,
  type Report,
  renderHtml,
  renderTable,
  writeAtomic,
} from '@kvloom/eval'
import { messageInGrammar } from '@kvloom/methods'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { openModel } from '../models'
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
  readonly modules?: ServedModules | undefined
  readonly out: string
  readonly seed: number
}

/** @returns the exit code. */
export async function compareCommand(flags: CompareFlags): Promise<number> {
  const compositions = await chooseCompositions({
    compressor: [...flags.compressor, ...flags.composition],
    config: flags.config,
    modules: flags.modules,
  })
  const artifacts = await artifactsOf(
    flags.artifacts,
    compositions.map((c) => c.compressor),
  )
  const protocol = protocolOf(flags, compositions)
  const text = await textOf(flags)
  return interruptible(async (signal) => {
    const model = await openModel(flags, signal)
    const line = progressLine()
    try {
      const file = join(flags.out, 'report.json')
      const page = join(flags.out, 'report.html')
      const report = await compare({
        model,
        compositions,
        ...text,
        ...given(flags, ['tokens', 'chunk', 'promptTokens', 'scoreFrom', 'decodeTokens', 'passkeyTokens', 'seed']),
        ...(flags.passkey === undefined ? {} : { passkeys: flags.passkey }),
        protocol,
        artifacts,
        artifactDir: artifactCacheDir(flags.cacheDir),
        file,
        signal,
        inWords: messageInGrammar,
        onRow: (row) => {
          if (row.status !== 'failed') return
          line.stop()
          process.stderr.write(`kvloom: ${row.name} failed: ${row.error?.message ?? 'unknown reason'}\n`)
        },
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

/** What was typed wrongly is said in the words of the command line. @throws UsageError */
function protocolOf(
  { protocol: asked, scoreFrom, promptTokens }: CompareFlags,
  compositions: readonly Composition[],
): ProtocolName {
  const upper = asked.toUpperCase()
  const named = upper === 'P' || upper === 'E' || upper === 'W' ? upper : null
  if (named === null && asked !== 'auto')
    throw new UsageError(
      `unknown protocol "${asked}"; allowed: P (chunks over a compressed past), E (compress a prompt once), W (one prompt read as stored), auto.`,
    )
  const protocol = named ?? protocolFor(compositions.map((c) => c.compressor))
  if (protocol === 'E' && scoreFrom !== undefined)
    throw new UsageError('--score-from belongs to protocols P and W; protocol E scores what follows --prompt-tokens.')
  if (protocol === 'P' && promptTokens !== undefined)
    throw new UsageError('--prompt-tokens belongs to protocols E and W; protocol P scores from --score-from on.')
  return protocol
}

async function textOf({ text }: CompareFlags): Promise<{ text?: string; textName?: string }> {
  if (text === undefined) return {}
  try {
    return { text: await readFile(text, 'utf8'), textName: basename(text) }
  } catch (cause) {
    throw new UsageError(`the text ${text} cannot be read; --text takes a file of plain text.`, { cause })
  }
}

/** The flags that were given, of those named. */
const given = <K extends keyof CompareFlags>(flags: CompareFlags, names: readonly K[]) =>
  Object.fromEntries(names.filter((name) => flags[name] !== undefined).map((name) => [name, flags[name]])) as {
    [N in K]?: Exclude<CompareFlags[N], undefined>
  }

const shown = (path: string): string => relative('.', path) || path

function outcome(report: Report): number {
  if (report.status === 'interrupted') {
    process.stderr.write('kvloom: interrupted; the report holds what was finished.\n')
    return EXIT.interrupted
  }
  return report.compositions.some((c) => c.status === 'failed') ? EXIT.failure : EXIT.ok
}
