/** The text that a comparison scores when none is given, and the tiny model's passkeys. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Model } from '@kvloom/engine'
import type { PasskeyTrial } from '../run/passkey'
import { goldenTrials, passkeyFormSchema, trialsByForm } from '../run/passkey-trials'

const bundledFile = (...path: string[]): Promise<string> =>
  readFile(join(dirname(createRequire(import.meta.url).resolve('@kvloom/tiny-model/package.json')), ...path), 'utf8')

/** Public-domain prose; the calibration text is another. */
export const sampleText = (): Promise<string> => bundledFile('text', 'sample.txt')

/** What the text is called in reports. */
export const SAMPLE_TEXT_NAME = 'bundled sample (public domain)'

/** Trials in the form that a model has learned: the tiny model's own, or the golden data's. */
export async function trialsFor(
  model: Model,
  { trials, tokens, seed }: { readonly trials: number; readonly tokens: number; readonly seed: number },
): Promise<readonly PasskeyTrial[]> {
  if (trials === 0) return []
  const filler = await sampleText()
  const tokenizer = {
    bosId: model.tokenizer.bosId,
    encode: (text: string) => model.tokenizer.encode(text, { bos: false, special: false }),
  }
  if (model.origin?.source !== 'tiny') return goldenTrials({ tokenizer, filler, trials, tokens, seed })
  const form = passkeyFormSchema.parse(JSON.parse(await bundledFile('model', 'passkey.json')))
  return trialsByForm(form, { tokenizer, filler, trials, tokens })
}
