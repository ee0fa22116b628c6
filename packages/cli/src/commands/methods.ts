/** `kvloom methods`: what can be composed, with every option. */
import Table from 'cli-table3'
import { EXIT } from '../errors'
import { type Method, methods } from '../registry'

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

/** @returns the exit code. */
export function methodsCommand({ json }: { readonly json?: boolean }): number {
  const described = methods.map(describeMethod)
  process.stdout.write(json ? `${JSON.stringify(described, null, 2)}\n` : described.map(section).join('\n'))
  return EXIT.ok
}

function section({ name, title, summary, paper, options }: ReturnType<typeof describeMethod>): string {
  const source = paper ? `\n  ${paper.title}, ${paper.link}` : ''
  const table = new Table({
    head: ['option', 'default', 'allowed', 'effect'],
    colWidths: [14, 12, 30, 60],
    wordWrap: true,
    style: { head: [], border: [], compact: true },
  })
  for (const option of options) table.push([option.name, JSON.stringify(option.default), option.allowed, option.doc])
  return `${name}: ${title}. ${summary}${source}\n${options.length > 0 ? `${table.toString()}\n` : ''}`
}
