/** `kvloom generate`: text from a model through a compressed cache, streamed to stdout. */
import { readFileSync } from 'node:fs'
import { openCache, ready } from '@kvloom/core'
import { generate } from '@kvloom/engine'
import { footprintOf } from '@kvloom/eval'
import { EXIT, Interrupted, UsageError } from '../errors'
import { openModel } from '../models'
import { interruptible } from '../terminal/interrupt'
import { buildChecked } from './compositions'

export interface GenerateFlags {
  readonly model?: string
  readonly backend: string
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly prompt: string
  readonly chat?: boolean
  readonly compressor: string
  readonly maxNewTokens: number
  readonly temperature: number
  readonly topK?: number
  readonly topP?: number
  readonly seed: number
}

/** @returns the exit code. */
export async function generateCommand(flags: GenerateFlags): Promise<number> {
  const compressor = buildChecked(flags.compressor)
  const prompt = flags.prompt === '-' ? readFileSync(0, 'utf8') : flags.prompt
  if (prompt === '')
    throw new UsageError('the prompt is empty; give --prompt TEXT, or --prompt - to read it from stdin.')
  return interruptible(async (signal) => {
    const { model } = await openModel(flags, signal)
    const { tokenizer } = model
    const text = flags.chat
      ? tokenizer.applyChatTemplate([{ role: 'user', content: prompt }], { addGenerationPrompt: true })
      : prompt
    // A chat template writes its own start token.
    const ids = tokenizer.encode(text, flags.chat ? { bos: false } : { special: false })
    const cache = openCache(model.shape, ready(compressor))
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
          const { theoreticalBits, residentBits, ledger } = footprintOf(cache)
          const speed = (tokens: number, ms: number): string =>
            `${tokens} tokens, ${(ms / Math.max(1, tokens)).toFixed(1)} ms each`
          process.stdout.write('\n')
          process.stderr.write(
            `prompt: ${speed(ids.length, prefillMilliseconds)}; new: ${speed(made.length, decodeMilliseconds)} (${reason}); cache: ${ledger.total} bytes, ${residentBits.toFixed(2)} bits per value held, ${theoreticalBits.toFixed(2)} by formula\n`,
          )
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
      model.dispose()
    }
  })
}
