/** `kvloom methods`: what can be composed, with every option. */

import { type Method, plainName } from '@kvloom/methods'
import Table from 'cli-table3'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { nearest } from '../nearest'
import { knownMethods } from './compositions'

/** A method as data, for `--json` and for tables made elsewhere. */
export function describeMethod({ card, options }: Method) {
  return {
    name: card.name,
    title: card.title,
    summary: card.summary,
    paper: card.paper ?? null,
    chunkInvariant: card.chunkInvariant,
    options: Object.entries(options).map(([name, spec]) => ({
      name,
      default: spec.default,
      allowed: spec.allowed,
      doc: spec.doc,
    })),
  }
}

export interface MethodsFlags {
  readonly json?: boolean
  readonly config?: string
  readonly modules?: ServedModules | undefined
}

/** @param names methods to show; none: all, those of a configuration too. @returns the exit code. */
export async function methodsCommand(
  names: readonly string[],
  { json, config, modules }: MethodsFlags,
): Promise<number> {
  const known = await knownMethods({ config, modules })
  const shown = names.length === 0 ? known : names.map((name) => methodNamed(name, known))
  const described = shown.map(describeMethod)
  process.stdout.write(json ? `${JSON.stringify(described, null, 2)}\n` : described.map(section).join('\n'))
  return EXIT.ok
}

function methodNamed(name: string, known: readonly Method[]): Method {
  const found = known.find((m) => plainName(m.card.name) === plainName(name))
  if (found) return found
  const names = known.map((m) => m.card.name)
  throw new UsageError(`unknown method "${name}"${nearest(name, names)}; methods: ${names.join(', ')}.`)
}

/** Space that a column adds to its text. */
const PADDING = 2
/** Columns of the text that wraps. */
const WIDE = { allowed: 30, effect: 60 } as const

/** A default as it is typed; a dash for an option that is left out. */
const defaultOf = (value: unknown): string => (value === null ? '–' : JSON.stringify(value))

function section({ name, title, summary, paper, options }: ReturnType<typeof describeMethod>): string {
  const source = paper ? `\n  ${paper.title}, ${paper.link}` : ''
  const rows = options.map((o) => [o.name, defaultOf(o.default), o.allowed, o.doc] as const)
  // Names and defaults are never cut: they are typed as they stand here.
  const widest = (column: 0 | 1, head: string): number =>
    Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)) + PADDING
  const table = new Table({
    head: ['option', 'default', 'allowed', 'effect'],
    colWidths: [widest(0, 'option'), widest(1, 'default'), WIDE.allowed, WIDE.effect],
    wordWrap: true,
    style: { head: [], border: [], compact: true },
  })
  for (const row of rows) table.push([...row])
  return `${name}: ${title}. ${summary}${source}\n${rows.length > 0 ? `${table.toString()}\n` : ''}`
}
