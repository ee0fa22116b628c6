import { fileURLToPath } from 'node:url'
import type { GoldenAdapter } from './adapter'
import { formatGolden } from './format'
import { runGolden } from './run'

/** What the suites of kvloom use of a test runner; `vitest` fits as it is. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  /** What the runner hands to a test may have a `skip()`, which is called for what the method refuses. */
  it(name: string, body: (...context: unknown[]) => Promise<void>, timeout?: number): unknown
  expect(actual: unknown): { toBe(expected: unknown): void; toEqual(expected: unknown): void }
}

export interface GoldenTestOptions {
  /** A golden folder, or a folder of them: `new URL('../golden/', import.meta.url)`. */
  readonly folder: URL
  readonly adapters: readonly GoldenAdapter[]
  /** Default cpu and wasm. */
  readonly backends?: readonly ('cpu' | 'wasm')[]
  /** Milliseconds that each test may take. Default two minutes. */
  readonly timeout?: number
}

/** What a test of the suites takes at most on a slow machine. Runners' own defaults, often 5 s, are for smaller tests. */
const TEST_TIMEOUT = 120_000

/** A runner whose tests may each take so many milliseconds. */
export const withTimeout = ({ describe, it, expect }: TestRunner, timeout: number = TEST_TIMEOUT): TestRunner => ({
  describe,
  it: (name, body) => it(name, body, timeout),
  expect,
})

/** Declares one test per backend: every case of the folder passes. */
export function testGolden(
  runner: TestRunner,
  { folder, adapters, backends = ['cpu', 'wasm'], timeout }: GoldenTestOptions,
): void {
  const { describe, it, expect } = withTimeout(runner, timeout)
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
