/** `kvloom generate`: text from a model through a compressed cache, streamed to stdout. */
import { readFileSync } from 'node:fs'
import { type Artifact, type KVCompressor, openCache } from '@kvloom/core'
import { generate, type Model } from '@kvloom/engine'
import { artifactCacheDir, footprintOf, heldBy, heldInWords, type Prepared, prepareComposition } from '@kvloom/eval'
import type { ServedModules } from '../config-modules'
import { EXIT, Interrupted, UsageError } from '../errors'
import { openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { progressLine } from '../terminal/progress'
import { artifactsOf } from './artifacts'
import { buildChecked, knownMethods, oneCompressor } from './compositions'

export interface GenerateFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly prompt: string
  readonly chat?: boolean
  readonly compressor?: string
  readonly composition?: string
  readonly config?: string
  readonly modules?: ServedModules | undefined
  readonly artifacts: readonly string[]
  readonly maxNewTokens: number
  readonly temperature: number
  readonly topK?: number
  readonly topP?: number
  readonly seed: number
}

/** @returns the exit code. */
export async function generateCommand(flags: GenerateFlags): Promise<number> {
  const compressor = buildChecked(oneCompressor(flags, 'none'), await knownMethods(flags))
  const given = await artifactsOf(flags.artifacts, [compressor])
  const prompt = flags.prompt === '-' ? readFileSync(0, 'utf8') : flags.prompt
  if (prompt === '')
    throw new UsageError('the prompt is empty; give --prompt TEXT, or --prompt - to read it from stdin.')
  return interruptible(async (signal) => {
    const loaded = await openModel(flags, signal)
    const { model, ready, dispose } = await prepared(loaded, compressor, given, flags, signal)
    const { tokenizer } = model
    // A chat template writes its own start token.
    const asked = flags.chat
      ? tokenizer.encode(
          tokenizer.applyChatTemplate([{ role: 'user', content: prompt }], { addGenerationPrompt: true }),
          {
            bos: false,
          },
        )
      : prompt
    const cache = openCache(model, ready)
    try {
      const stream = generate(model, cache, asked, {
        maxNewTokens: flags.maxNewTokens,
        temperature: flags.temperature,
        seed: flags.seed,
        signal,
        ...(flags.topK === undefined ? {} : { topK: flags.topK }),
        ...(flags.topP === undefined ? {} : { topP: flags.topP }),
      })
      for (;;) {
        const next = await stream.next()
        if (next.done) {
          const { ids: made, promptTokens, prefillMilliseconds, decodeMilliseconds, reason } = next.value
          const { theoreticalBits, residentBits, ledger } = footprintOf(cache, loaded.shape)
          const speed = (tokens: number, ms: number): string =>
            `${tokens} tokens, ${(ms / Math.max(1, tokens)).toFixed(1)} ms each`
          process.stdout.write('\n')
          process.stderr.write(
            `prompt: ${speed(promptTokens, prefillMilliseconds)}; new: ${speed(made.length, decodeMilliseconds)} (${reason}); cache: ${ledger.total} bytes, ${residentBits.toFixed(2)} bits per value held, ${theoreticalBits.toFixed(2)} by formula\n`,
          )
          for (const note of heldInWords(compressor, heldBy(cache))) process.stderr.write(`${note}\n`)
          return EXIT.ok
        }
        process.stdout.write(next.value.text)
      }
    } catch (error) {
      if (signal.aborted) {
        process.stdout.write('\n')
        throw new Interrupted()
      }
      throw error
    } finally {
      cache.dispose()
      dispose()
      loaded.dispose()
    }
  })
}

/** Fits what is missing and applies model stages, with progress. */
async function prepared(
  model: Model,
  compressor: KVCompressor,
  given: readonly Artifact[],
  flags: GenerateFlags,
  signal: AbortSignal,
): Promise<Prepared> {
  const line = progressLine()
  try {
    return await prepareComposition({
      model,
      compressor,
      given,
      signal,
      cacheDir: artifactCacheDir(flags.cacheDir),
      onProgress: (state) => line.show(state),
    })
  } catch (error) {
    model.dispose()
    throw error
  } finally {
    line.stop()
  }
}
