/**
 * KIVI: keys have a few channels of large, nearly constant offset, values have none. So keys are quantized per channel
 * (groups of consecutive tokens) and values per token (groups of consecutive channels), to 2 or 4 bits by their minimum and
 * maximum, without any tuning; the newest rows stay exact.
 *
 *   minimum = min(group), scale = (max(group) - minimum) / (2^bits - 1)
 *   code = roundHalfEven((x - minimum) / scale) in 0 ... 2^bits - 1, x' = code · scale + minimum
 *
 * Z. Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache" (arXiv 2402.02750), section 3. What differs:
 * several tokens may be appended at once (the reference asserts one) and seal the same blocks; a constant group has codes
 * and scale 0, where the reference divides 0 by 0; 1 to 8 bits, not only 2 and 4.
 */
import { defineQuantizer, ModelMismatch, OptionError, type OptionsOf, type Site } from '@kvloom/core'
import { type AffineLayout, affineDecode, affineEncode, LARGEST_HALF } from '@kvloom/kernels'
import { kiviOptions } from './options'

type Options = OptionsOf<typeof kiviOptions>

/** Keys per channel, values per token, `bits` bits, after RoPE; the newest `residual` values and 0 … `residual` - 1 keys exact. */
export const kivi = defineQuantizer({
  name: 'kivi',
  title: 'KIVI',
  summary: 'Keys per channel, values per token, min-max to 2 or 4 bits; a recent window stays exact.',
  paper: {
    title: 'KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache',
    link: 'https://arxiv.org/abs/2402.02750',
  },
  options: kiviOptions,
  check({ residual, group }) {
    if (residual % group !== 0)
      throw new OptionError(
        'kivi',
        'residual',
        residual,
        `a multiple of group (${group})`,
        'A block of keys is sealed in whole groups.',
      )
  },
  // Keys are sealed in blocks of `residual` from token 0 on and none waits longer; exactly `residual` values stay exact.
  window: ({ residual }) => ({
    sinks: 0,
    keys: { recent: 0, block: residual, drain: 'blocks' },
    values: { recent: residual, block: 1, drain: 'blocks' },
  }),
  rope: 'post',
  rowsPerGroup: ({ group }, part) => (part === 'keys' ? group : 1),
  channels: ({ group }, part) => (part === 'values' ? { multipleOf: group, of: 'head' } : undefined),
  quantizer(options, site) {
    const layout = layoutOf(options, site)
    const metadataBits = layout.metadata === 'f16' ? 16 : 32
    return {
      layout,
      rowsPerGroup: layout.along === 'tokens' ? layout.group : 1,
      ...(layout.metadata === 'f16'
        ? {
            largest: layout.bits === 1 ? LARGEST_HALF / 2 : LARGEST_HALF,
            largestCure: "metadata: 'f32' holds larger numbers.",
          }
        : {}),
      theoreticalBitsPerValue: layout.bits + (2 * metadataBits) / layout.group,
      encode: (rows) => affineEncode(rows, layout),
      decode: (block, rows) => affineDecode(block, layout, { heads: block.words.shape[0] ?? 0, rows, dim: site.dim }),
    }
  },
})

/** How one part of one layer is stored. @throws ModelMismatch when the groups do not fit the head dimension. */
function layoutOf({ bits, keyBits, valueBits, group, metadata }: Options, { part, dim }: Site): AffineLayout {
  if (part === 'keys') return { kind: 'affine', bits: keyBits ?? bits, group, along: 'tokens', metadata }
  if (dim % group !== 0)
    throw new ModelMismatch(
      'kivi',
      `values have ${dim} channels, which groups of ${group} do not divide.`,
      `Choose a group that divides ${dim}.`,
    )
  return { kind: 'affine', bits: valueBits ?? bits, group, along: 'channels', metadata }
}
