/** "Did you mean ...?" for a mistyped name. */

/** The known name with the fewest edits, when a third of its letters or fewer (at least one) are wrong; else null. */
export function nearestName(given: string, known: readonly string[]): string | null {
  const wanted = given.slice(0, LONGEST).toLowerCase()
  let best: { readonly name: string; readonly edits: number } | null = null
  for (const name of known) {
    const edits = editDistance(wanted, name.toLowerCase())
    if (best === null || edits < best.edits) best = { name, edits }
  }
  return best && best.edits <= Math.max(1, Math.floor(best.name.length / 3)) ? best.name : null
}

/** Letters of a mistyped name that are looked at; no option is that long. */
const LONGEST = 64

/** Insertions, deletions and replacements that make `b` of `a` (Levenshtein). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      const replaced = (row[j] ?? 0) + (a[i] === b[j] ? 0 : 1)
      next.push(Math.min(replaced, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
