/**
 * AQUA-KV: each layer's keys and values are predicted from reconstructions of the layer before, and only the residual is quantized.
 *
 *   linear-predictor (all layers but the first)  +  a quantizer for the residuals, HIGGS by default
 *   the first layer without predictor, at 4 bits  +  4 sinks, and up to 127 new tokens, exact
 *
 * A. Shutova et al., "Cache Me If You Must: Adaptive Key-Value Quantization for Large Language Models" (arXiv 2501.19392), section 3.
 * What differs: see linear-predictor and higgs; the Hadamard block is as large as divides the channels (1024 on the authors' models);
 * KIVI as backbone seals whole blocks of tokens, since a key group is one, where the authors' cache seals whatever waits.
 */
import {
  compose,
  defineMethod,
  evenWindows,
  exceptLayers,
  type KVCompressor,
  OptionError,
  type OptionsOf,
  onLayers,
  parseOptions,
  window,
} from '@kvloom/core'
import { coupledQuantization } from '@kvloom/coupled-quantization'
import { higgs } from '@kvloom/higgs'
import { kivi } from '@kvloom/kivi'
import { linearPredictor } from '@kvloom/linear-predictor'
import { aquaKvOptions, aquaKvOverOptions, type OverOptions } from './options'

type Options = OptionsOf<typeof aquaKvOptions>

/** AQUA-KV as its authors run it. Needs calibration for its predictors. */
export const aquaKv = defineMethod(
  {
    name: 'aqua-kv',
    title: 'AQUA-KV',
    summary: 'Predicts each layer from the one before and quantizes what is left.',
    paper: {
      title: 'Cache Me If You Must: Adaptive Key-Value Quantization for Large Language Models',
      link: 'https://arxiv.org/abs/2501.19392',
    },
    chunkInvariant: false,
  },
  aquaKvOptions,
  (options) => {
    const { group, first, sinks, block, rank, keepReconstruction, backbone } = options
    // A group of KIVI's keys is one of tokens.
    const drain = backbone === 'kivi' ? 'blocks' : 'all'
    const firstGroup = backbone === 'higgs' ? group : null
    const over = { first, firstGroup, sinks, block, drain, rank, keepReconstruction } as const
    const { card: _, ...mix } = aquaKvOver(backboneOf(options), over)
    return mix
  },
)

/** AQUA-KV's predictors, zones and first layer around any composition that quantizes. */
export function aquaKvOver(quantizer: KVCompressor, given: Partial<OverOptions> = {}): KVCompressor {
  const { first, firstGroup, sinks, block, drain, ...predictor } = parseOptions('aqua-kv', aquaKvOverOptions, given)
  if (!quantizer.stages.some(({ kind }) => kind === 'quantize'))
    throw new OptionError('aqua-kv', 'quantizer', quantizer.card.name, 'a composition that quantizes', 'Add higgs().')
  const zoned = (c: KVCompressor): KVCompressor => window(evenWindows({ sinks, block, drain }), c)
  return compose(
    linearPredictor(predictor),
    zoned(exceptLayers([0], quantizer)),
    ...(first === 'exact' ? [] : [zoned(onLayers([0], higgs({ bits: first, group: firstGroup })))]),
  )
}

/** Channels of a code of 8 bits, by bits per value. */
const COUPLED = { 1: 8, 2: 4, 4: 2, 8: 1 } as const

function backboneOf({ backbone, bits, group, block, sinks }: Options): KVCompressor {
  switch (backbone) {
    case 'higgs':
      return higgs({ bits, group })
    case 'kivi':
      return kivi({ bits, group: group ?? 32, residual: block })
    case 'cq':
      if (group !== null)
        throw new OptionError('aqua-kv', 'group', group, 'left out with the backbone cq', 'Its codes share no scale.')
      if (bits !== 1 && bits !== 2 && bits !== 4 && bits !== 8)
        throw new OptionError('aqua-kv', 'bits', bits, '1, 2, 4 or 8 with the backbone cq', 'Its codes have 8 bits.')
      return coupledQuantization({ channels: COUPLED[bits], bits: 8, sinks })
  }
}
