/** `kvloom golden PATH…`: the methods against reference data; the last line is `N passed, N failed`. */

import { useBackend } from '@kvloom/engine'
import { formatGolden, type GoldenResult, runGolden, summarizeGolden } from '@kvloom/golden'
import { adapters } from '@kvloom/methods/golden'
import { EXIT, UsageError } from '../errors'
import { backendOf } from '../models'
import { interruptible } from '../terminal/interrupt'

export interface GoldenFlags {
  readonly only?: readonly string[]
  readonly backend: string
}

/** @returns the exit code: 1 for a miss, an unknown case, or when nothing was run. */
export async function goldenCommand(paths: readonly string[], flags: GoldenFlags): Promise<number> {
  const backend = backendOf(flags.backend)
  const only = (flags.only ?? [])
    .flatMap((each) => each.split(','))
    .map((each) => each.trim())
    .filter((each) => each !== '')
  // Starts wasm with one thread, as the engine runs it.
  await useBackend(backend)
  return interruptible(async (signal) => {
    const results: GoldenResult[] = []
    for await (const result of runGolden(paths, { adapters, backend, only })) {
      results.push(result)
      process.stdout.write(`${formatGolden(result)}\n`)
      await new Promise((resolve) => setTimeout(resolve, 0))
      if (signal.aborted) break
    }
    process.stdout.write(`${summarizeGolden(results)}\n`)
    if (signal.aborted) return EXIT.interrupted
    if (results.length === 0)
      throw new UsageError(
        only.length > 0 ? `no case begins with ${only.join(' or ')}.` : `no golden data in ${paths.join(', ')}.`,
      )
    return results.every((r) => r.status === 'passed') ? EXIT.ok : EXIT.failure
  })
}
