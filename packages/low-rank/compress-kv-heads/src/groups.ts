/** How KV heads are cut into groups, and how many numbers a group keeps. */
import { type Asked, ModelMismatch, type OptionsOf, type Part, type Transform } from '@kvloom/core'
import type { compressKvHeadsOptions } from './options'

export type Options = OptionsOf<typeof compressKvHeadsOptions>

/** The paper removes up to three heads of four. */
const MOST_HEADS = 4
const RANK_OPTION = { keys: 'keyRank', values: 'valueRank' } as const

/** Rows of one part of a model. */
interface Rows {
  /** KV heads of the model, also where a site has fewer. */
  readonly kvHeads: number
  readonly dim: number
  readonly part: Part
}

/** How many KV heads share a latent. @throws ModelMismatch when groups of so many do not divide the KV heads */
export function headsPerGroup({ headsPerGroup: asked }: Options, kvHeads: number): number {
  if (asked === null) {
    let most = Math.min(kvHeads, MOST_HEADS)
    while (kvHeads % most !== 0) most--
    return most
  }
  if (kvHeads % asked !== 0)
    throw new ModelMismatch(
      'compress-kv-heads',
      `groups of ${asked} do not divide its ${kvHeads} KV heads.`,
      'Choose headsPerGroup among the divisors.',
    )
  return asked
}

/**
 * The latents of a model: a head for each group, and the rank that is asked for, or the nearest multiple (half up) of what stands behind it.
 * @throws ModelMismatch when groups do not divide the heads, or their rows have no such rank
 */
export function latents(options: Options, { kvHeads, dim, part }: Rows, { channels }: Asked): Transform['main'] {
  const size = headsPerGroup(options, kvHeads)
  const full = size * dim
  const asked = options[RANK_OPTION[part]] ?? options.rank ?? dim
  if (asked > full)
    throw new ModelMismatch(
      'compress-kv-heads',
      `a rank of ${asked} is asked of its ${part}, and ${size === 1 ? 'a head has' : `${size} heads have`} ${full} channels.`,
      `Choose at most ${full}, by ${RANK_OPTION[part]} for this part alone.`,
    )
  if (channels > full)
    throw new ModelMismatch(
      'compress-kv-heads',
      `what stands behind it takes multiples of ${channels} channels of ${part}, whose groups have ${full}.`,
      'Use a quantizer of smaller groups, such as kivi(group=…), or more heads per group.',
    )
  const most = channels * Math.floor(full / channels)
  const nearest = channels * Math.floor(asked / channels + 0.5)
  return { heads: kvHeads / size, dim: Math.min(most, Math.max(channels, nearest)) }
}
