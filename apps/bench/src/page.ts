// Numbers and tables of the pages made here.

export const percent = (x: number): string => `${x >= 0 ? '+' : ''}${(100 * x).toFixed(2)} %`
export const bits = (x: number): string => x.toFixed(2)
export const kilobytes = (bytes: number): string =>
  bytes === 0 ? '' : bytes < 1024 ? `${bytes} B` : `${Math.round(bytes / 1024)} KiB`

/** A Markdown table; the first column is text, the others are numbers. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string[] => [
  `| ${head.join(' | ')} |`,
  `| ${head.map((_, i) => (i === 0 ? '---' : '---:')).join(' | ')} |`,
  ...rows.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`),
]
