/** Compares sets of kept tokens. Where several tokens tie at the cut, any choice among them is right; else the sets must be equal. */
import type { NdArray } from './array'
import { type TensorResult, wrong } from './compare'

/** Tokens whose scores are so close to the cut tie with it, by the convention of the golden eviction data. */
export const TIE = { abs: 2e-7, rel: 2e-6 }

/**
 * Compares the kept positions `[heads, kept]`, or `[kept]` for one set of all heads.
 * @param scores `[heads, tokens]`, larger = keep: where given, a token may differ if its score ties with the cut.
 * @param tie the distance from the cut below which scores tie with it; default `TIE`
 */
export function compareKept(
  name: string,
  actual: NdArray,
  expected: NdArray,
  scores?: NdArray,
  tie: { readonly abs: number; readonly rel: number } = TIE,
): TensorResult {
  if (actual.shape.join() !== expected.shape.join())
    return wrong(name, `shape [${actual.shape.join(', ')}], expected [${expected.shape.join(', ')}]`)
  const kept = expected.shape.at(-1) ?? 0
  const heads = kept === 0 ? 0 : expected.data.length / kept
  const tokens = scores?.shape.at(-1) ?? 0
  let [misses, where, tied] = [0, '', 0]
  for (let head = 0; head < heads; head++) {
    const [have, want] = [rowOf(actual, head, kept), rowOf(expected, head, kept)]
    const [haveSet, wantSet] = [new Set(have), new Set(want)]
    if (haveSet.size !== kept) return wrong(name, `head ${head} keeps a token twice`)
    if (have.some((token, i) => i > 0 && token <= (have[i - 1] ?? -1)))
      return wrong(name, `head ${head} is not in the order of the text`)
    const different = [...have.filter((t) => !wantSet.has(t)), ...want.filter((t) => !haveSet.has(t))]
    if (different.length === 0) continue
    const scoreOf = (token: number) => scores?.data[head * tokens + token] ?? Number.NaN
    const cut = Math.min(...want.map(scoreOf))
    for (const token of different) {
      // Without scores the comparison below is with NaN, so nothing ties.
      if (Math.abs(scoreOf(token) - cut) <= tie.abs + tie.rel * Math.abs(cut)) tied++
      else {
        misses++
        where ||= `head ${head}, token ${token}`
      }
    }
  }
  return {
    name,
    error: misses,
    tolerance: 0,
    where: where || (tied ? `${tied / 2} tied` : 'all'),
    passed: misses === 0,
  }
}

/**
 * Compares masks `[heads, tokens]` of heads that keep different numbers of tokens. All heads together must keep equally many.
 * @param scores `[heads, tokens]`: where given, a token may differ if its score ties with the cut over all heads.
 */
export function compareMask(name: string, actual: NdArray, expected: NdArray, scores?: NdArray): TensorResult {
  if (actual.shape.join() !== expected.shape.join())
    return wrong(name, `shape [${actual.shape.join(', ')}], expected [${expected.shape.join(', ')}]`)
  const tokens = expected.shape.at(-1) ?? 0
  const total = ({ data }: NdArray) => [...data].reduce((sum, x) => sum + x, 0)
  if (total(actual) !== total(expected)) return wrong(name, `${total(actual)} tokens kept, expected ${total(expected)}`)
  const different = [...expected.data.keys()].filter((at) => expected.data[at] !== actual.data[at])
  // Tokens that only one of the two masks keeps lie at the cut, so they tie with each other.
  const at = different.map((i) => scores?.data[i] ?? Number.NaN)
  const [low, high] = [Math.min(...at), Math.max(...at)]
  const tied = different.length > 0 && high - low <= TIE.abs + TIE.rel * Math.abs(high)
  const [first = 0] = different
  const where = `head ${Math.floor(first / tokens)}, token ${first % tokens}`
  return {
    name,
    error: tied ? 0 : different.length,
    tolerance: 0,
    where: different.length === 0 ? 'all' : tied ? `${different.length / 2} tied` : where,
    passed: tied || different.length === 0,
  }
}

const rowOf = ({ data }: NdArray, head: number, width: number): number[] => [
  ...data.subarray(head * width, (head + 1) * width),
]
