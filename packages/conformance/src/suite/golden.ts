import { fileURLToPath } from 'node:url'
import type { GoldenMethods } from '../golden/adapters/types'
import { formatGolden } from '../golden/format'
import { runGolden } from '../golden/run'
import type { TestRunner } from './compressor'

export interface GoldenTestOptions {
  /** A golden folder, or a folder of them: `new URL('../fixtures/', import.meta.url)`. */
  readonly folder: URL
  readonly methods: GoldenMethods
  /** Default cpu and wasm. */
  readonly backends?: readonly ('cpu' | 'wasm')[]
}

/** Declares one test per backend: every case of the folder passes. */
export function testGolden(
  { describe, it, expect }: TestRunner,
  { folder, methods, backends = ['cpu', 'wasm'] }: GoldenTestOptions,
): void {
  describe('golden data', () => {
    for (const backend of backends)
      it(`agrees with the authors on ${backend}`, async () => {
        const missed: string[] = []
        let cases = 0
        for await (const result of runGolden([fileURLToPath(folder)], { methods, backend })) {
          cases++
          if (result.status !== 'passed') missed.push(formatGolden(result))
        }
        expect(missed).toEqual([])
        expect(cases > 0).toBe(true)
      })
  })
}
