/** `kvloom generate`: text from a model through a compressed cache, streamed to stdout. */
import { readFileSync } from 'node:fs'
import { type Artifact, type KVCompressor, openCache, ready } from '@kvloom/core'
import { generate, type Model } from '@kvloom/engine'
import { footprintOf, heldBy, heldInWords } from '@kvloom/eval'
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
  readonly artifacts: readonly string[]
  readonly maxNewTokens: number
  readonly temperature: number
  readonly topK?: number
  readonly topP?: number
  readonly seed: number
}

/** @returns the exit code. */
export async function generateCommand(flags: GenerateFlags): Promise<number> {
  const compressor = buildChecked(oneCompressor(flags, 'none'), await knownMethods(flags.config))
  const given = await artifactsOf(flags.artifacts, [compressor])
  const prompt = flags.prompt === '-' ? readFileSync(0, 'utf8') : flags.prompt
  if (prompt === '')
    throw new UsageError('the prompt is empty; give --prompt TEXT, or --prompt - to read it from stdin.')
  return interruptible(async (signal) => {
    const { model: loaded } = await openModel(flags, signal)
    const { model, artifacts, dispose } = await prepared(loaded, compressor, given, flags, signal)
    const { tokenizer } = model
    const text = flags.chat
      ? tokenizer.applyChatTemplate([{ role: 'user', content: prompt }], { addGenerationPrompt: true })
      : prompt
    // A chat template writes its own start token.
    const ids = tokenizer.encode(text, flags.chat ? { bos: false } : { special: false })
    const cache = openCache(model.shape, ready(compressor, artifacts))
    try {
      const stream = generate(model, cache, ids, {
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
          const { ids: made, prefillMilliseconds, decodeMilliseconds, reason } = next.value
          const { theoreticalBits, residentBits, ledger } = footprintOf(cache, loaded.shape)
          const speed = (tokens: number, ms: number): string =>
            `${tokens} tokens, ${(ms / Math.max(1, tokens)).toFixed(1)} ms each`
          process.stdout.write('\n')
          process.stderr.write(
            `prompt: ${speed(ids.length, prefillMilliseconds)}; new: ${speed(made.length, decodeMilliseconds)} (${reason}); cache: ${ledger.total} bytes, ${residentBits.toFixed(2)} bits per value held, ${theoreticalBits.toFixed(2)} by formula\n`,
          )
          for (const note of heldInWords(compressor, heldBy(cache))) process.stderr.write(`${note}\n`)
          return EXIT.ok
        }
        process.stdout.write(next.value.text)
        // A timer turn lets Ctrl-C in: the backends compute synchronously.
        await new Promise((resolve) => setTimeout(resolve, 0))
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

/** Fits what is missing and applies model stages; the code for it is loaded only when it is needed. */
async function prepared(
  model: Model,
  compressor: KVCompressor,
  given: readonly Artifact[],
  flags: GenerateFlags,
  signal: AbortSignal,
): Promise<{ model: Model; artifacts: readonly Artifact[]; dispose(): void }> {
  if (!compressor.stages.some((s) => s.fit || s.kind === 'model'))
    return { model, artifacts: [], dispose: () => undefined }
  const { artifactCacheDir, prepareComposition } = await import('../calibration')
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
