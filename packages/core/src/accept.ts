/** The common cases of `accepts`: what a stage does to the space that it gets, and what it refuses. */
import type { Space, When } from './contract'
import { oneOrLayers, oneSet } from './cures'
import { IncompatibleStages } from './errors'

/**
 * The space behind a stage that drops tokens. It has the narrower of the two token sets, and says whether tokens are dropped after the
 * prompt too.
 */
export const dropping = (space: Space, sets: Space['tokenSets'], when: When): Space => ({
  ...space,
  tokenSets: narrower(space.tokenSets, sets),
  drops: space.drops === 'always' || when !== 'promptEnd' ? 'always' : 'promptEnd',
})
const SETS: readonly Space['tokenSets'][] = ['head', 'layer', 'model']
/** What heads and layers still agree over behind two stages that drop tokens. */
export const narrower = (a: Space['tokenSets'], b: Space['tokenSets']): Space['tokenSets'] =>
  SETS[Math.min(SETS.indexOf(a), SETS.indexOf(b))] ?? a

/** For stages that seal rows once. @throws IncompatibleStages after a stage that rewrites rows. */
export function refuseSlots(space: Space, name: string, earlier: string): void {
  if (space.slots)
    throw new IncompatibleStages(
      earlier,
      name,
      `${earlier} rewrites its rows, and ${name} seals a row once.`,
      oneOrLayers(earlier, name),
    )
}

/** For stages that merge the heads of a token into one row. @throws IncompatibleStages when heads keep different tokens. */
export function refuseHeadSets(space: Space, name: string, earlier: string): void {
  if (space.tokenSets === 'head')
    throw new IncompatibleStages(
      earlier,
      name,
      `${name} makes one row of all heads of a token, and after ${earlier} each head keeps its own tokens.`,
      oneSet(earlier),
    )
}

/**
 * For stages that join the rows of several layers. `chains`: of all layers, so that giving the two different layers is no way out.
 * @throws IncompatibleStages when layers keep different tokens
 */
export function refuseLayerSets(space: Space, name: string, earlier: string, chains = false): void {
  if (space.tokenSets !== 'model')
    throw new IncompatibleStages(
      earlier,
      name,
      `${name} joins the rows of several layers, and after ${earlier} each layer keeps its own tokens.`,
      [
        {
          kind: 'replace',
          method: earlier,
          what: 'a method with one set of tokens for all layers',
          methods: ['streaming-llm'],
        },
        {
          kind: 'wrap',
          why: 'have it choose one',
          combinator: 'sharedTokens',
          args: ['model'],
          around: earlier,
        },
        ...(chains ? [] : [{ kind: 'separate', by: 'layers', methods: [earlier, name] } as const]),
      ],
    )
}
