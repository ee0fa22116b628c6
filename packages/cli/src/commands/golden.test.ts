/** `kvloom golden` with adapters that are not kvloom's own, and without the model of the engine's cases. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { run } from '../program'

let folder: string
let shown: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-golden-command-'))
  shown = ''
  const take = (text: string | Uint8Array): boolean => {
    shown += String(text)
    return true
  }
  vi.spyOn(process.stdout, 'write').mockImplementation(take)
  vi.spyOn(process.stderr, 'write').mockImplementation(take)
})
afterEach(async () => {
  vi.restoreAllMocks()
  await rm(folder, { recursive: true })
})

const write = (name: string, text: string) => writeFile(join(folder, name), text)
const cases = (method: string) => JSON.stringify({ method, cases: [{ name: 'one', options: { answer: 42 } }] })
const ADAPTER = `import { compareArrays, numberOption } from '@kvloom/golden'
const array = (x: number) => ({ shape: [1], data: Int32Array.of(x) })
export const adapter = {
  method: 'mine',
  run: async (golden: never) => ({ tensors: [compareArrays('answer', array(numberOption(golden, 'answer')), array(42), {})] }),
}`

it('runs the cases of an adapter in a file, and of a configuration', async () => {
  await write('golden.json', cases('mine'))
  await write('adapter.ts', ADAPTER)
  expect(await run(['golden', folder, '--backend', 'cpu'])).toBe(1)
  expect(shown).toContain('unknown')
  expect(await run(['golden', folder, '--backend', 'cpu', '--adapter', join(folder, 'adapter.ts')])).toBe(0)
  expect(shown).toContain('1 passed, 0 failed')
  await write('kvloom.config.ts', `import { adapter } from './adapter'\nexport default { adapters: [adapter] }`)
  expect(await run(['golden', folder, '--backend', 'cpu', '--config', join(folder, 'kvloom.config.ts')])).toBe(0)
})

it('says what is wrong with an adapter', async () => {
  await write('golden.json', cases('mine'))
  await write('other.ts', 'export const method = 1')
  expect(await run(['golden', folder, '--adapter', join(folder, 'other.ts')])).toBe(2)
  expect(shown).toMatch(/exports no golden adapter of the name "adapter"/)
  expect(await run(['golden', folder, '--adapter', 'no-such-package'])).toBe(2)
  expect(shown).toMatch(/--adapter no-such-package cannot be loaded: .* a package that is installed here/s)
  await write('kvloom.config.ts', 'export default { adapters: [1] }')
  expect(await run(['golden', folder, '--config', join(folder, 'kvloom.config.ts')])).toBe(2)
  expect(shown).toMatch(/adapters, entry 1 is no adapter/)
})

it("says that the engine's cases need a model", async () => {
  const engine = { method: 'engine', cases: [], tokenizer: [{ text: 'a', ids: [1] }] }
  await write('golden.json', JSON.stringify(engine))
  const args = ['golden', folder, '--backend', 'cpu', '--offline', '--cache-dir', join(folder, 'models')]
  expect(await run(args)).toBe(1)
  expect(shown).toMatch(/the engine's cases need SmolLM2-135M-Instruct \(Q4_1\), which is not there: .* with --model/s)
  expect(shown).toContain('0 passed, 1 failed')
})
