import { fileURLToPath } from 'node:url'
import type { GoldenAdapter } from './adapter'
import { formatGolden } from './format'
import { runGolden } from './run'

/** What the suites of kvloom use of a test runner; `vitest` fits as it is. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  /** What the runner hands to a test may have a `skip()`, which is called for what the method refuses. */
  it(name: string, body: (...context: unknown[]) => Promise<void>): unknown
  expect(actual: unknown): { toBe(expected: unknown): void; toEqual(expected: unknown): void }
}

export interface GoldenTestOptions {
  /** A golden folder, or a folder of them: `new URL('../golden/', import.meta.url)`. */
  readonly folder: URL
  readonly adapters: readonly GoldenAdapter[]
  /** Default cpu and wasm. */
  readonly backends?: readonly ('cpu' | 'wasm')[]
}

/** Declares one test per backend: every case of the folder passes. */
export function testGolden(
  { describe, it, expect }: TestRunner,
  { folder, adapters, backends = ['cpu', 'wasm'] }: GoldenTestOptions,
): void {
  describe('golden data', () => {
    for (const backend of backends)
      it(`agrees with the authors on ${backend}`, async () => {
        const missed: string[] = []
        let cases = 0
        for await (const result of runGolden([fileURLToPath(folder)], { adapters, backend })) {
          cases++
          if (result.status !== 'passed') missed.push(formatGolden(result))
        }
        expect(missed).toEqual([])
        expect(cases > 0).toBe(true)
      })
  })
}
