/** The tests that cross every size at which a compressor acts, on the first of the shapes that it takes. */
import type { KVCompressor, ModelShape } from '@kvloom/core'
import type { TestRunner } from '@kvloom/golden'
import { strangeNumbers } from './numbers'
import { expectNone } from './steps'
import { type Bench, runLong, runTurns, turnsOf } from './turns'

/** How many tokens the long run has. */
const LONG = 500

interface EdgeOptions {
  readonly make: () => KVCompressor
  readonly prompt: number
  readonly seed: number
  /** Makes the body of a test on the first shape that the compressor takes. */
  readonly on: (body: (bench: Bench, model: ModelShape) => Promise<void>) => (...context: unknown[]) => Promise<void>
}

/** Declares these tests. */
export function declareEdgeTests({ it }: TestRunner, { make, prompt, seed, on }: EdgeOptions): void {
  it(
    'keeps what it promises and a row of every head, over prompts of all sizes and further ones, as its fork and its restored copy',
    on(async (bench, model) => {
      const problems: string[] = []
      for (const turns of turnsOf(make(), model, seed)) problems.push(...(await runTurns(bench, turns)))
      expectNone(problems)
    }),
  )

  it(
    `takes hardly more bytes than its rows need, over ${LONG} tokens`,
    on(async (bench) => {
      expectNone(await runLong(bench, prompt, LONG))
    }),
  )

  it(
    'answers large numbers right or refuses them, as NaN and infinity, in keys, values and queries',
    on(async (bench) => {
      expectNone(await strangeNumbers(bench, prompt))
    }),
  )
}
