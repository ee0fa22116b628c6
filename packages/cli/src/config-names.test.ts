/** What a configuration's names mean beside kvloom's own, and what a mistake in one costs. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { chooseCompositions } from './commands/compositions'
import { UsageError } from './errors'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-config-'))
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true)
})
afterAll(async () => {
  vi.restoreAllMocks()
  await rm(folder, { recursive: true })
})

async function load(name: string, text: string, compressor: readonly string[] = []) {
  const config = join(folder, name)
  await writeFile(config, text)
  return chooseCompositions({ compressor, config })
}

it('prefers a method of the configuration to one of kvloom with the same name', async () => {
  const text = `
    import { definePick, integer } from '@kvloom/core'
    const mine = definePick({
      name: 'snapkv',
      options: { tokens: integer({ default: 8, min: 1, doc: 'Tokens kept.' }) },
      by: 'positions',
      pick: ({ tokens }) => ({
        needs: {},
        positions: 'original',
        count: (held) => Math.min(held, tokens),
        keep: (held, count) => [{ start: held - count, end: held }],
      }),
    })
    export default { methods: [mine] }`
  const [row] = await load('same-name.ts', text, ['snapkv(tokens=3)'])
  expect(row?.compressor.stages.map(({ kind, options }) => [kind, options])).toEqual([['pick', { tokens: 3 }]])
})

it.each([
  ['{ "compressor": ["none"] }', /field "compressor"; allowed: compressors, methods/],
  ['{ "compressors": "none" }', /compressors is string; allowed: a list, or an object of names/],
  ['{ "compressors": ["kivi(bitz=2)"] }', /bitz.*bits/s],
  ['{ "methods": ["none"] }', /methods, entry 1 is no method/],
])('refuses %s in one sentence', async (text, message) => {
  const refused = await load('wrong.json', text).then(
    () => null,
    (error: unknown) => error,
  )
  expect(refused).toBeInstanceOf(Error)
  expect(String(refused)).toMatch(message)
  expect(refused instanceof UsageError || (refused as Error).name === 'CompositionError').toBe(true)
})
