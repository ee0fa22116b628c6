// A tokenizer as the two files of a Hugging Face folder, wherever it came from.
import type { TokenizerFiles } from '../models/model-files'
import { describeGguf } from './from-gguf'

/** Contents of tokenizer.json and tokenizer_config.json. */
export interface TokenizerJson {
  readonly json: Readonly<Record<string, unknown>>
  readonly config: Readonly<Record<string, unknown>>
}

/** Throws `TokenizerError` where a GGUF file's tokenizer is not understood. */
export function tokenizerJson(files: TokenizerFiles): TokenizerJson {
  if (files.kind === 'tokenizer.json') return { json: files.tokenizer, config: files.config }
  const { json, tokens, bosId, eosId, addsBos, chatTemplate } = describeGguf(files.metadata)
  const config = {
    ...(bosId === undefined ? {} : { bos_token: tokens[bosId] }),
    ...(eosId === undefined ? {} : { eos_token: tokens[eosId] }),
    add_bos_token: addsBos,
    ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
  }
  return { json, config }
}
