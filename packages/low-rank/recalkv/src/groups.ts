/** How KV heads are cut into groups, and what ranks a group may have. */
import { type Asked, ModelMismatch, type ModelShape, type OptionsOf, type Part, type Transform } from '@kvloom/core'
import type { recalkvOptions } from './options'
import { roundedRank } from './ranks'

export type Options = OptionsOf<typeof recalkvOptions>

/** The size of a group in the authors' code. */
const MOST_HEADS = 4

/** How many KV heads a group has. @throws ModelMismatch when groups of so many do not divide the KV heads */
export function groupSize({ headsPerGroup: asked }: Options, { kvHeads }: ModelShape): number {
  if (asked === null) {
    let most = Math.min(kvHeads, MOST_HEADS)
    while (kvHeads % most !== 0) most--
    return most
  }
  if (kvHeads % asked !== 0)
    throw new ModelMismatch(
      'recalkv',
      `groups of ${asked} do not divide its ${kvHeads} KV heads.`,
      'Choose headsPerGroup among the divisors.',
    )
  return asked
}

export const dimOf = (model: ModelShape, part: Part): number => (part === 'keys' ? model.keyDim : model.valueDim)

/** The rank of one group that is nearest to `rank`: a multiple of what stands behind it, and not above the channels of a group. */
export function rankOfGroup(rank: number, full: number, { channels }: Asked): number {
  const most = channels * Math.floor(full / channels)
  return Math.min(most, Math.max(channels, channels * Math.floor(rank / channels + 0.5)))
}

/** The latents of a model where every layer keeps the same. @throws ModelMismatch when no ranks are what is asked */
export function latents(options: Options, model: ModelShape, part: Part, asked: Asked): Transform['main'] {
  const size = groupSize(options, model)
  const full = size * dimOf(model, part)
  if (asked.channels > full)
    throw new ModelMismatch(
      'recalkv',
      `what stands behind it takes multiples of ${asked.channels} channels of ${part}, whose groups have ${full}.`,
      'Use a quantizer of smaller groups, such as kivi(group=…), or more heads per group.',
    )
  const rank = rankOfGroup(roundedRank(options.keep * full, options.block), full, asked)
  return { heads: 1, dim: (model.kvHeads / size) * rank }
}
