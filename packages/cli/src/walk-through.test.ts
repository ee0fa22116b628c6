/** CONTRIBUTING.md promises a new method in about ten lines. Its own words are run here. */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { reportSchema } from '@kvloom/eval'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const GUIDE = new URL('../../../CONTRIBUTING.md', import.meta.url)
/** About ten lines, as the heading says. */
const MOST_LINES = 12

it('adds a scorer by the walk-through and shows it in a comparison', async () => {
  const guide = await readFile(GUIDE, 'utf8')
  const [, code = ''] = /```ts kvloom\.config\.ts\n([\s\S]*?)```/.exec(guide) ?? []
  const definition = /const \w+ = defineScorer\([\s\S]*?\n\}\)/.exec(code)?.[0] ?? ''
  expect(definition).not.toBe('')
  expect(definition.split('\n').length).toBeLessThanOrEqual(MOST_LINES)
  const [, command = ''] = /npm start -- (.*kvloom\.config\.ts.*)\n/.exec(guide) ?? []
  expect(command).toContain('--config kvloom.config.ts')

  const folder = await mkdtemp(join(tmpdir(), 'kvloom-walk-'))
  try {
    await writeFile(join(folder, 'kvloom.config.ts'), code)
    const { stdout } = await run(
      process.execPath,
      [MAIN, 'compare', ...command.split(' '), '--tokens', '300', '--passkey', '0', '--decode-tokens', '2'],
      { cwd: folder },
    )
    expect(stdout).toContain('long-values(keep=0.5)+kivi(bits=2)')
    const report = reportSchema.parse(JSON.parse(await readFile(join(folder, 'kvloom-report', 'report.json'), 'utf8')))
    const [, alone, mixed] = report.compositions
    expect(alone?.status).toBe('done')
    expect(alone?.result?.footprint.keptFraction).toBeCloseTo(0.5, 1)
    expect(mixed?.result?.footprint.residentBits).toBeLessThan(alone?.result?.footprint.residentBits ?? 0)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
