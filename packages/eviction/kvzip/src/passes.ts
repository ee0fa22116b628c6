/** What the model is asked to repeat: the context in chunks, each behind an instruction and, chunks after the first, the end of the one before. */
import type { ReplayContext, ReplayPass } from '@kvloom/core'

/** The authors' instructions. */
const REPEAT_ALL = '\n\nRepeat the previous context exactly.'
const REPEAT_FROM = '\n\nRepeat the part of the previous context exactly, starting with '
/** Tokens of the chunk before that say where a chunk begins. */
const REMINDER = 8
/** What ends the instruction of a model without a chat template. */
const NEW_LINE = '\n'
/** A context that leaves less room for a chunk is too long to be repeated; the pass is then refused as too long. */
const LEAST_CHUNK = 64

/**
 * The passes over `tokens` from `prefix` on, none where nothing is left to repeat.
 *
 *   tokens of a pass = instruction, (the last 8 tokens of the chunk before), end of the user's turn, chunk
 */
export function passesOver(
  { tokens, room, encode, beforeAnswer }: ReplayContext,
  { chunk, prefix, sinks }: { readonly chunk: number; readonly prefix: number; readonly sinks: number },
): readonly ReplayPass[] {
  if (tokens.length <= prefix) return []
  const [all, from, turn] = [REPEAT_ALL, REPEAT_FROM, beforeAnswer() || NEW_LINE].map(encode)
  const ask = (start: number): number[] =>
    start === prefix
      ? [...(all ?? [])]
      : [...(from ?? []), ...tokens.subarray(Math.max(prefix, start - REMINDER), start)]
  const longest = Math.max(all?.length ?? 0, (from?.length ?? 0) + REMINDER) + (turn?.length ?? 0)
  const step = Math.min(chunk, Math.max(LEAST_CHUNK, room - longest))
  const passes: ReplayPass[] = []
  for (let start = prefix; start < tokens.length; start += step) {
    const end = Math.min(tokens.length, start + step)
    const read = Int32Array.from([...ask(start), ...(turn ?? []), ...tokens.subarray(start, end)])
    passes.push({ tokens: read, from: start, to: end, sinks })
  }
  return passes
}
