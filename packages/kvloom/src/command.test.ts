/** The command that comes with `kvloom`, and what a configuration outside of any package can import. */
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '@kvloom/cli'
import { methods } from '@kvloom/methods'
import * as kvloom from 'kvloom'
import { afterAll, beforeAll, expect, it } from 'vitest'

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-command-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Runs a configuration that imports the named packages whole; gives the names that each exports. */
async function exportsSeenBy(names: readonly string[]): Promise<Record<string, string[]>> {
  const seen = join(folder, 'seen.json')
  const config = join(folder, 'kvloom.config.ts')
  const imports = names.map((name, i) => `import * as module${i} from '${name}'`)
  const entries = names.map((name, i) => `'${name}': Object.keys(module${i}).sort()`)
  await writeFile(
    config,
    `import { writeFileSync } from 'node:fs'\n${imports.join('\n')}\n` +
      `writeFileSync(${JSON.stringify(seen)}, JSON.stringify({ ${entries.join(', ')} }))\n` +
      `export default { compressors: ['no-such-method'] }\n`,
  )
  // The unknown method ends the command after the configuration ran and before a model is looked for.
  expect(await run(['compare', '--model', 'tiny', '--config', config], { kvloom: async () => kvloom })).toBe(2)
  return JSON.parse(await readFile(seen, 'utf8')) as Record<string, string[]>
}

it('lets a configuration outside of any package import every method', async () => {
  const names = methods.map(({ card }) => `@kvloom/${card.name}`)
  const seen = await exportsSeenBy(names)
  expect(Object.keys(seen)).toEqual(names)
  for (const name of names) {
    const whole = (await kvloom.methodPackages[name]?.()) ?? {}
    expect(
      seen[name]?.filter((each) => each !== 'default'),
      name,
    ).toEqual(Object.keys(whole).sort())
  }
})

it('serves as kvloom what kvloom exports', async () => {
  const seen = await exportsSeenBy(['kvloom', '@kvloom/math', '@kvloom/kernels', '@tensorflow/tfjs-core'])
  expect(seen['kvloom']?.filter((each) => each !== 'default')).toEqual(Object.keys(kvloom).sort())
})

it('brings the command', () => {
  const bin = fileURLToPath(new URL('../bin/kvloom.js', import.meta.url))
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, 'methods', '--json'], { encoding: 'utf8' })
  expect(stderr).toBe('')
  expect(JSON.parse(stdout)).toHaveLength(methods.length)
  expect(status).toBe(0)
})
