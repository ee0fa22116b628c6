import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { methods } from '@kvloom/methods'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { chooseCompositions } from './commands/compositions'
import { loadConfig } from './config'
import { configModules } from './config-modules'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-config-'))
})
afterAll(() => rm(folder, { recursive: true }))

const SCORER = `
import { defineScorer } from '@kvloom/core'
import { sum } from '@tensorflow/tfjs-core'
const mine = defineScorer({ name: 'my-scorer', needs: { keys: { of: 'keys' } }, score: ({ keys }) => sum(keys, -1) })
`
const config = async (name: string, text: string): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, text)
  return path
}
/** What is said on stderr meanwhile. */
async function heard<T>(work: () => Promise<T>): Promise<{ result: T; said: string }> {
  let said = ''
  const write = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += String(text)
    return true
  })
  try {
    return { result: await work(), said }
  } finally {
    write.mockRestore()
  }
}

describe('a configuration', () => {
  it('can import every method package', async () => {
    const served = await configModules({})
    const factories = new Set(Object.values(served).flatMap((module) => Object.values(module as object)))
    for (const method of methods) expect(factories.has(method), method.card.name).toBe(true)
    const path = await config(
      'all.ts',
      `import { aquaKv } from '@kvloom/aqua-kv'
       import { higgs } from '@kvloom/higgs'
       export default { compressors: [higgs({ bits: 3 }), aquaKv()] }`,
    )
    expect((await loadConfig(path)).compositions.map((c) => c.name)).toEqual(['higgs', 'aqua-kv'])
  })

  it('is said aloud, and its compositions run when none is named', async () => {
    const path = await config(
      'rows.ts',
      `${SCORER} export default { methods: [mine], compressors: { 'a third': 'my-scorer(keep=0.33)', plain: 'none' } }`,
    )
    const { result, said } = await heard(() => chooseCompositions({ compressor: [], config: path }))
    expect(result.map((c) => c.name)).toEqual(['a third', 'plain'])
    expect(said).toContain('rows.ts: 1 method (my-scorer); 2 compositions.')
  })

  it('gives way to compositions of the command line, which its methods are for too', async () => {
    const path = join(folder, 'rows.ts')
    const asked = { compressor: ['my-scorer+kivi'], config: path }
    const { result, said } = await heard(() => chooseCompositions(asked))
    expect(result.map((c) => c.name)).toEqual(['my-scorer+kivi'])
    expect(said).toContain('2 compositions, left aside: those of the command line replace them')
  })

  it('adds its methods to the default set when it names no compositions', async () => {
    const path = await config('methods.ts', `${SCORER} export default { methods: [mine] }`)
    const { result } = await heard(() => chooseCompositions({ compressor: [], config: path }))
    expect(result.map((c) => c.name).at(-1)).toBe('my-scorer')
    expect(result.length).toBeGreaterThan(5)
  })

  it('is refused for compressors that cannot work', async () => {
    const path = await config(
      'alone.ts',
      `import { adaKv } from '@kvloom/ada-kv'
       export default { compressors: { alone: adaKv() } }`,
    )
    await expect(heard(() => chooseCompositions({ compressor: [], config: path }))).rejects.toThrow(
      /"alone": ada-kv cannot work alone/,
    )
  })
})
