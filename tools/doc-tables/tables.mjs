// The tables as markdown.

const cell = (text) => String(text).replaceAll('|', '\\|').replaceAll('\n', ' ')
const row = (cells) => `| ${cells.map(cell).join(' | ')} |`
/** A Markdown table. */
export const table = (head, rows) => [row(head), `|${'---|'.repeat(head.length)}`, ...rows.map(row)].join('\n')

const paperOf = (card) => (card.paper ? `[${card.paper.title}](${card.paper.link})` : '')

/** `when` in words. */
function whenOf(when) {
  if (typeof when === 'object') return `every ${when.everyTokens} tokens`
  const words = {
    load: 'at load',
    room: 'before an append',
    step: 'after each step',
    promptEnd: 'at the end of the prompt',
    seal: 'when a block is sealed',
    read: 'at every read',
  }
  return words[when] ?? when
}

function stagesOf(stages) {
  const lines = stages.map(({ kind, when, on }) => `${kind}${on?.part ? ` (${on.part})` : ''} ${whenOf(when)}`)
  return [...new Set(lines)].join('; ') || 'none: rows stay exact'
}

/** One line per method: README. */
export function methodTable(methods) {
  const rows = methods.map(({ card, category, packageName, folder }) => [
    `\`${card.name}\``,
    category,
    card.summary,
    paperOf(card),
    `[\`${packageName}\`](${folder})`,
  ])
  return `${table(['method', 'family', 'what it does', 'paper', 'package'], rows)}\n`
}

/** One line per option: docs/methods.md, and the README of the method. */
export function optionTable({ options }) {
  const names = Object.keys(options)
  const rows = names.map((name) => [
    `\`${name}\``,
    options[name].default === null ? '–' : `\`${JSON.stringify(options[name].default)}\``,
    options[name].allowed,
    options[name].doc,
  ])
  return names.length === 0 ? 'No options.' : table(['option', 'default', 'allowed', 'effect'], rows)
}

/** One section per method with its options: docs/methods.md. */
export function methodSections(methods) {
  return methods
    .map((method) => {
      const { card, category, packageName, exportName, stages } = method
      return [
        `## ${card.title} {#${card.name}}`,
        card.summary,
        [
          `- On the command line: \`${card.name}\``,
          `- In TypeScript: \`import { ${exportName} } from '${packageName}'\``,
          `- Family: ${category}`,
          `- Stages: ${stagesOf(stages)}`,
          ...(card.paper ? [`- Paper: ${paperOf(card)}`] : []),
        ].join('\n'),
        optionTable(method),
      ].join('\n\n')
    })
    .join('\n\n')
    .concat('\n')
}
