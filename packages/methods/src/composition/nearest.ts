import { nearestName } from '@kvloom/errors'

/** ` (did you mean "x"?)`, or nothing when no known name is near. */
export function nearest(given: string, known: readonly string[]): string {
  const name = nearestName(given, known)
  return name === null ? '' : ` (did you mean "${name}"?)`
}
