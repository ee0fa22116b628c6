// Help for tests: the tokenizers of the fixtures as GGUF metadata, and their texts.
import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import zlib from 'node:zlib'
import type { GgufValue } from '../files/gguf'

/** A text with the ids that an independent implementation gives it. */
export interface TokenizerCase {
  readonly text: string
  readonly ids: number[]
}

/** GGUF metadata of a tokenizer. */
export type TokenizerMetadata = ReadonlyMap<string, GgufValue>

const read = (name: string) => fs.readFileSync(fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url)))

/** The sentencepiece model of the fixtures: 700 tokens, bytes among them, a space put before texts. */
export function sentencepieceFixture(): { metadata: TokenizerMetadata; cases: readonly TokenizerCase[] } {
  const { metadata, cases } = JSON.parse(read('spm-tokenizer.json').toString()) as {
    metadata: Record<string, GgufValue>
    cases: TokenizerCase[]
  }
  return { metadata: new Map(Object.entries(metadata)), cases }
}

/** The byte-level BPE of SmolLM2, 49,152 tokens. */
export function smollm2Fixture(): { metadata: TokenizerMetadata; cases: readonly TokenizerCase[] } {
  const metadata = JSON.parse(zlib.gunzipSync(read('smollm2-tokenizer.json.gz')).toString()) as Record<
    string,
    GgufValue
  >
  const { tokenizer } = JSON.parse(read('smollm2-golden.json').toString()) as { tokenizer: TokenizerCase[] }
  return { metadata: new Map(Object.entries(metadata)), cases: tokenizer }
}
