/** What a reader must know about a row. */
import type { KVCompressor, Window } from '@kvloom/core'
import { heldInWords } from '../metrics/held'
import type { Measures } from '../run/measure'
import type { Plan } from '../run/plan'

/** Sentences about a row that ran. */
export function notesOn(compressor: KVCompressor, plan: Plan, measures: Measures): string[] {
  const notes: string[] = []
  const longest = Math.max(...plan.steps.map((s) => s.end - s.start))
  if (measures.longestStep < longest)
    notes.push(
      `Fed in steps of at most ${measures.longestStep} tokens instead of ${longest}: it takes no more at once.`,
    )
  const promptEnd = compressor.stages.filter((s) => s.when === 'promptEnd').map((s) => s.id)
  if (plan.protocol === 'P' && promptEnd.length > 0)
    notes.push(
      `${[...new Set(promptEnd)].join(', ')} acts at the end of a prompt, and protocol P has none: it did nothing here. Use protocol E.`,
    )
  if (plan.protocol === 'W' && compressor.ownRows !== 'stored' && compressor.stages.some((s) => s.when === 'seal'))
    notes.push(
      `Each step of ${plan.chunk} tokens attended exactly to itself; ownRows('stored') around it makes every token read what is stored.`,
    )
  if (compressor.store === 'f32' && measures.held.tokens > 0)
    notes.push('Exact rows are held in 32 bits; bits by formula count every exact row as 16.')
  return [...notes, ...mergedInWords(compressor), ...heldInWords(compressor, measures.held)]
}

/** Which exact rows a mix got where its parts proposed different windows, and who proposed what. */
export function mergedInWords({ window, mergedWindows = [] }: KVCompressor): string[] {
  if (!window) return []
  return mergedWindows.map(({ part, from }) => {
    const wishes = from.map(({ name, window: wish }) => `${name} (${windowInWords(wish)})`)
    return `Its ${part} got the smallest window that serves all: ${windowInWords(window[part])}, from ${wishes.join(' and ')}.`
  })
}

const windowInWords = ({ recent, block, drain }: Window): string =>
  `${recent} recent, ${drain === 'all' ? `all older ones sealed once ${block} wait` : `blocks of ${block}`}`
