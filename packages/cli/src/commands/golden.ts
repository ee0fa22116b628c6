/** `kvloom golden PATH…`: the methods against reference data; the last line is `N passed, N failed`. */

import { takeTurn } from '@kvloom/core'
import { loadModel, type Model, useBackend } from '@kvloom/engine'
import { engineAdapter } from '@kvloom/engine/golden'
import { formatGolden, type GoldenAdapter, type GoldenResult, runGolden, summarizeGolden } from '@kvloom/golden'
import { adapters } from '@kvloom/methods/golden'
import { findConfig, loadAdapter, loadConfig } from '../config'
import type { ServedModules } from '../config-modules'
import { EXIT, UsageError } from '../errors'
import { backendOf, DEFAULT_MODEL, fetchModel, type ModelWish } from '../models'
import { interruptible } from '../terminal/interrupt'

export interface GoldenFlags {
  readonly only?: readonly string[]
  readonly backend: string
  /** Modules that export an `adapter`: packages or files. */
  readonly adapter?: readonly string[]
  readonly config?: string
  readonly modules?: ServedModules
  /** For the engine's cases. */
  readonly model?: string
  readonly cacheDir?: string
  readonly offline?: boolean
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
    const engine = new OwnModel({ ...flags, backend }, signal)
    const all = [...(await furtherAdapters(flags)), ...adapters, engineAdapter(() => engine.open())]
    const results: GoldenResult[] = []
    for await (const result of runGolden(paths, { adapters: all, backend, only })) {
      results.push(result)
      process.stdout.write(`${formatGolden(result)}\n`)
      await takeTurn()
      if (signal.aborted) break
    }
    engine.dispose()
    process.stdout.write(`${summarizeGolden(results)}\n`)
    if (signal.aborted) return EXIT.interrupted
    if (results.length === 0)
      throw new UsageError(
        only.length > 0 ? `no case begins with ${only.join(' or ')}.` : `no golden data in ${paths.join(', ')}.`,
      )
    return results.every((r) => r.status === 'passed') ? EXIT.ok : EXIT.failure
  })
}

/** Adapters of a configuration and of `--adapter`, before kvloom's own. */
async function furtherAdapters({ adapter = [], config, modules = {} }: GoldenFlags): Promise<readonly GoldenAdapter[]> {
  const path = config ?? (await findConfig())
  const configured = path === null ? [] : (await loadConfig(path, modules)).adapters
  return [...(await Promise.all(adapter.map((name) => loadAdapter(name, modules)))), ...configured]
}

/** The model of the engine's cases, which are no cases of any other. */
class OwnModel {
  private model: Model | undefined

  constructor(
    private readonly wish: ModelWish,
    private readonly signal: AbortSignal,
  ) {}

  async open(): Promise<Model> {
    const { wish, signal } = this
    const { path } = await fetchModel(wish.model ?? DEFAULT_MODEL, wish, signal).catch((cause: unknown) => {
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new UsageError(
        `the engine's cases need SmolLM2-135M-Instruct (Q4_1), which is not there: ${why} Name its .gguf file with --model.`,
        { cause },
      )
    })
    this.model = await loadModel(path, { backend: backendOf(wish.backend), signal })
    return this.model
  }

  dispose(): void {
    this.model?.dispose()
  }
}
