/** Compares results with what a case expects, by name. */
import type { NdArray } from './array'
import { compareArrays, type TensorResult, wrong } from './compare'
import type { GoldenCase } from './schema'

/**
 * Compares one result with each expected tensor, under its tolerance. A name without a result fails. An expected tensor that a tolerance
 * names as its mask (`except_`) is not compared itself.
 * @param skip masks of positions where anything is right, by name
 */
export async function compareNamed(
  golden: GoldenCase,
  results: Readonly<Record<string, NdArray | undefined>>,
  skip: Readonly<Record<string, NdArray | undefined>> = {},
): Promise<TensorResult[]> {
  const masks = new Set(golden.expects.map((name) => golden.tolerance(name).except_))
  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    if (masks.has(name)) continue
    const result = results[name]
    const mask = golden.tolerance(name).except_
    const except = mask === undefined ? skip[name] : await golden.expected(mask)
    tensors.push(
      result
        ? compareArrays(name, result, await golden.expected(name), golden.tolerance(name), except ? { except } : {})
        : wrong(name, 'no result for this name'),
    )
  }
  return tensors
}
