// What a chat template writes between the end of a user's message and the answer to it.
import { TokenizerError } from '../errors'
import type { Tokenizer } from './tokenizer'

/** No template writes it itself, and none changes it by trimming. */
const MESSAGE = 'the message of a user'

/**
 * The end of the user's turn and the beginning of the assistant's, such as `<|im_end|>\n<|im_start|>assistant\n`; empty for a model
 * without a chat template.
 * @throws TokenizerError('BAD_CHAT_TEMPLATE') where the template fails or leaves the message out
 */
export function beforeAnswer(tokenizer: Pick<Tokenizer, 'chatTemplate' | 'applyChatTemplate'>): string {
  if (tokenizer.chatTemplate === undefined) return ''
  const chat = tokenizer.applyChatTemplate([{ role: 'user', content: MESSAGE }])
  const at = chat.lastIndexOf(MESSAGE)
  if (at >= 0) return chat.slice(at + MESSAGE.length)
  throw new TokenizerError('BAD_CHAT_TEMPLATE', {
    given: 'a chat template that leaves out what the user says',
    allowed: "a template that writes every message's content",
    cure: 'Use another file of the model.',
  })
}
