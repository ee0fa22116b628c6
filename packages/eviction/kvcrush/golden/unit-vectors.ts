/** The unit vectors of OpenVINO GenAI's own tests: distances, representatives, the mean anchor. */
import { compareArrays, type GoldenCase, GoldenError, numberOption, type Outcome } from '@kvloom/golden'
import { anchorOf, byDistance, distancesTo, ranksOf } from '../src/signatures'
import { integerRow } from './host'

type Vectors = Readonly<Record<string, readonly number[] | number>>

export function unitVectors(golden: GoldenCase): Outcome {
  const width = numberOption(golden, 'block_size')
  const [distance, mean] = [vectors(golden, 'distance_case'), vectors(golden, 'mean_anchor')]
  const representatives = golden.scalars['representatives'] as readonly Vectors[] | undefined
  const signatures = (of: Vectors) => ({ bits: Uint8Array.from(listOf(of, 'indicators')), width })
  const check = (name: string, actual: ArrayLike<number>, expected: ArrayLike<number>) =>
    compareArrays(name, integerRow(actual), integerRow(expected), {})
  return {
    tensors: [
      check(
        'distances',
        distancesTo(Uint8Array.from(listOf(distance, 'anchor')), signatures(distance)),
        listOf(distance, 'distances'),
      ),
      check('mean anchor', anchorOf(signatures(mean), 'mean', 0), listOf(mean, 'anchor')),
      ...(representatives ?? []).map((of, i) => {
        const eligible = byDistance(listOf(of, 'eligible'), Int32Array.from(listOf(of, 'distances')))
        const ranks = ranksOf(eligible.length, Number(of['budget']), 'stride')
        return check(
          `representatives ${i}`,
          ranks.map((rank) => eligible[rank] ?? -1),
          listOf(of, 'blocks'),
        )
      }),
    ],
  }
}

const vectors = (golden: GoldenCase, name: string): Vectors => (golden.scalars[name] ?? {}) as Vectors

function listOf(of: Vectors, name: string): readonly number[] {
  const list = of[name]
  if (!Array.isArray(list)) throw new GoldenError(`The unit vectors give no list ${name}.`)
  return list as readonly number[]
}
