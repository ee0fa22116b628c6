// Token ids from a caller: anything that is no list of ids is refused by value and place, before it becomes a wrong row of the embedding.
import { EngineError } from './errors'

/** A step that cannot be run: no tokens, what are no ids or ids outside the vocabulary, a cache of another model, or a model that was disposed. */
export class ForwardError extends EngineError<'NO_TOKENS' | 'NOT_IDS' | 'BAD_ID' | 'OTHER_MODEL' | 'DISPOSED'> {
  override readonly name = 'ForwardError'
}

/**
 * Ids of a step or a prompt as they go into the forward pass; an Int32Array is given back as it is.
 * @param where who was given them, for the message
 * @param ids an Int32Array, or numbers in an array or another typed array
 * @throws ForwardError('NOT_IDS') for a text or anything else that is no list; ('BAD_ID') for NaN, a fraction, or an id outside the vocabulary
 */
export function checkedIds(where: string, ids: ArrayLike<number>, vocabSize: number): Int32Array {
  const given: unknown = ids
  if (!Array.isArray(given) && !(ArrayBuffer.isView(given) && !(given instanceof DataView)))
    throw new ForwardError('NOT_IDS', {
      given: `${where}: ${describe(given)}`,
      allowed: 'token ids in an Int32Array or an array of numbers',
      cure: 'Encode text first: model.tokenizer.encode(text).',
    })
  for (let i = 0; i < ids.length; i++) {
    const id: unknown = ids[i]
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize) continue
    throw new ForwardError('BAD_ID', {
      given: `${where}: token id ${describe(id)} at index ${i}`,
      allowed: `whole numbers from 0 to ${vocabSize - 1}`,
      cure: 'Check that the tokenizer belongs to this model.',
    })
  }
  return ids instanceof Int32Array ? ids : Int32Array.from(ids)
}

/** What was given, in a few words. */
function describe(value: unknown): string {
  if (typeof value === 'string') return `the text ${JSON.stringify(value.slice(0, 40))}`
  if (typeof value === 'number' || value === undefined || value === null) return String(value)
  return typeof value === 'object' ? 'an object' : `${String(value).slice(0, 40)} (${typeof value})`
}
