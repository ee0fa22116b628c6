// Which tokens end a generation. Files name them in several places and sometimes wrongly: an id that is no token stops nothing and is
// reported, the others stay. GGUF files of chat models often name no end-of-turn token at all; it is then known by its text.
import type { GgufValue } from '../files/gguf'

/** Ids that end generation, and what was wrong with the others. */
export interface EndIds {
  /** Ids of the model's vocabulary, each once, in the order they are named. */
  readonly ids: readonly number[]
  /** A sentence for each named id that is no token of the model. */
  readonly warnings: readonly string[]
}

/** Texts of tokens that end a turn, a message or a text, whatever a GGUF file says of them. From llama.cpp's llama-vocab.cpp. */
const endTexts: ReadonlySet<string> = /* @__PURE__ */ new Set([
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<|flush|>',
  '<|calls|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '</s>',
  '<|eom_id|>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
  '<|end_of_text|>',
  '<end_of_utterance>',
  '<eos>',
  '<turn|>',
  '<|tool_response>',
  '<｜end▁of▁sentence｜>',
  '[e~[',
])

/** Ids of tokens whose text ends a text, ascending; below `vocabSize`. */
export function endIdsByText(tokens: readonly unknown[], vocabSize = tokens.length): number[] {
  const found = new Map<string, number>()
  for (let id = 0; id < Math.min(tokens.length, vocabSize); id++) {
    const token = tokens[id]
    if (typeof token === 'string' && endTexts.has(token) && !found.has(token)) found.set(token, id)
  }
  // The two exceptions of llama.cpp: in these formats `<|end|>` ends a part of a message, and `</s>` is a word like others.
  const calls = found.has('<|call|>') || found.has('<|calls|>')
  if (calls && (found.has('<|return|>') || found.has('<|flush|>'))) found.delete('<|end|>')
  if (found.has('<|tool_response>') || tokens.includes('<|plamo:eos|>')) found.delete('</s>')
  return [...found.values()].sort((a, b) => a - b)
}

/** End ids of a GGUF file: those of `tokenizer.ggml.eos_token_id`, `eot_token_id` and `eom_token_id`, then those found by their text. */
export function endIdsOfGguf(metadata: ReadonlyMap<string, GgufValue>, vocabSize: number): EndIds {
  const named = ['eos', 'eot', 'eom'].map((each): Named => {
    const key = `tokenizer.ggml.${each}_token_id`
    return [key, metadata.get(key)]
  })
  const tokens = metadata.get('tokenizer.ggml.tokens')
  return gather(named, vocabSize, Array.isArray(tokens) ? endIdsByText(tokens, vocabSize) : [])
}

/** End ids of a Hugging Face folder: `eos_token_id` of config.json and of generation_config.json, each an id or a list. */
export function endIdsOfHuggingFace(
  config: Readonly<Record<string, unknown>>,
  generation: Readonly<Record<string, unknown>> | undefined,
  vocabSize: number,
): EndIds {
  const all = (file: string, value: unknown): Named[] =>
    [value].flat(1).map((each): Named => [`eos_token_id of ${file}`, each])
  return gather(
    [...all('config.json', config['eos_token_id']), ...all('generation_config.json', generation?.['eos_token_id'])],
    vocabSize,
    [],
  )
}

type Named = readonly [where: string, value: unknown]

function gather(named: readonly Named[], vocabSize: number, byText: readonly number[]): EndIds {
  const isToken = (value: unknown): value is number =>
    typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < vocabSize
  const given = named.filter(([, value]) => value !== undefined && value !== null)
  const ids = [...new Set([...given.map(([, value]) => value).filter(isToken), ...byText])]
  const rest =
    ids.length > 0
      ? `Generation stops at ${ids.join(', ')}.`
      : 'No end token is left: give `stopIds`, or generation goes on to its token limit.'
  const warnings = given
    .filter(([, value]) => !isToken(value))
    .map(
      ([where, value]) =>
        `${where} is ${show(value)}, which is no token id (0 to ${vocabSize - 1}); it is ignored. ${rest}`,
    )
  return { ids, warnings: [...new Set(warnings)] }
}

/** A value in a message; the strange ones shortened. */
function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40))
  return typeof value === 'object' ? 'an object' : String(value)
}
