/** Which heads share a group, by the greedy rule of the authors' code. */
import type { Matrix } from '@kvloom/math'

/** A pair of heads, the lower one first. */
interface Pair {
  readonly a: number
  readonly b: number
  readonly similarity: number
}

/**
 * Groups heads, the most similar pairs first. Two free heads both go into the first group with any room, which may then hold one too many; a
 * free head follows its partner where there is room. Heads that are left fill groups from the highest number down, and groups with one
 * too many hand their last head on to the first group with room.
 * @param similarity `[heads, heads]`. @param size divides the number of heads
 * @returns heads of each group, in the order in which they came
 */
export function groupHeads(similarity: Matrix, size: number): readonly (readonly number[])[] {
  const heads = similarity.rows
  const groups: number[][] = Array.from({ length: heads / size }, () => [])
  const groupOf = new Map<number, number[]>()
  const put = (head: number, group: number[]): void => {
    group.push(head)
    groupOf.set(head, group)
  }
  const withRoom = (): number[] | undefined => groups.find((group) => group.length < size)
  for (const { a, b } of pairsOf(similarity)) {
    const [ofA, ofB] = [groupOf.get(a), groupOf.get(b)]
    if (ofA && ofB) continue
    if (ofA || ofB) {
      const group = ofA ?? ofB
      if (group && group.length < size) put(ofA ? b : a, group)
      continue
    }
    const group = withRoom()
    if (!group) continue
    put(a, group)
    put(b, group)
  }
  const left = Array.from({ length: heads }, (_, head) => head).filter((head) => !groupOf.has(head))
  for (const group of groups)
    while (group.length < size && left.length > 0) {
      const head = left.pop()
      if (head !== undefined) put(head, group)
    }
  for (const group of groups)
    while (group.length > size) {
      const head = group.pop()
      if (head !== undefined) withRoom()?.push(head)
    }
  return groups
}

/** All pairs by falling similarity; of equal ones the lower heads first. */
function pairsOf({ rows: heads, data }: Matrix): readonly Pair[] {
  const pairs: Pair[] = []
  for (let a = 0; a < heads; a++)
    for (let b = a + 1; b < heads; b++) pairs.push({ a, b, similarity: data[a * heads + b] ?? 0 })
  return pairs.sort((x, y) => y.similarity - x.similarity)
}

/** The slot of every head when the groups stand one behind the other. */
export function slotsOf(groups: readonly (readonly number[])[]): Int32Array {
  const slots = new Int32Array(groups.flat().length)
  for (const [slot, head] of groups.flat().entries()) slots[head] = slot
  return slots
}
