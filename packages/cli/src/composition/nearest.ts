/** "Did you mean ...?" for a mistyped name. */
import { distance } from 'fastest-levenshtein'

/** ` (did you mean "x"?)`, or nothing when no known name is near. */
export function nearest(given: string, known: readonly string[]): string {
  const rated = known.map((name) => ({ name, edits: distance(given.toLowerCase(), name.toLowerCase()) }))
  const best = rated.reduce<(typeof rated)[number] | null>((a, b) => (a && a.edits <= b.edits ? a : b), null)
  return best && best.edits <= Math.max(1, Math.floor(best.name.length / 3)) ? ` (did you mean "${best.name}"?)` : ''
}
