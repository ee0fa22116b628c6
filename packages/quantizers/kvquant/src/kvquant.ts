/**
 * KVQuant: keys are quantized per channel before RoPE, by ranges from calibration, values per token; both to signposts that need not be evenly
 * spaced, learned once per layer by k-means with numbers weighted by how much the loss depends on them; and the few most extreme numbers stay exact.
 *
 *   keys     l[j], u[j] = quantiles of channel j     x < l or x > u is an outlier     offset = (u + l) / 2, range = (u - l) / 2
 *   values   the k smallest and k largest numbers of a token are outliers; l, u = smallest and largest of the others
 *   code = argmin_i |(x - offset) / range - y[i]|     x' = y[code] · range + offset; outliers are stored as they are
 *   y = argmin Σ w · |x_n - y(x_n)|²     w = (∂loss/∂x)²
 *
 * C. Hooper et al., "KVQuant: Towards 10 Million Context Length LLM Inference with KV Cache Quantization" (arXiv 2401.18079), section 3. What
 * differs: tokens have room for the same number of key outliers each (the authors' `cap_outliers`), so that tokens can be dropped one by one; of
 * equal values only so many are outliers as there is room for; codes are computed from the stored halves of range and offset.
 */
import {
  type Artifact,
  ArtifactMismatch,
  defineQuantizer,
  evenWindows,
  type HostTensor,
  learned,
  ModelMismatch,
  type OptionsOf,
  type Quantizer,
  type Site,
} from '@kvloom/core'
import { LARGEST_HALF, placeBytes } from '@kvloom/kernels'
import { fitKvquant } from './fit'
import { kvquantOptions } from './options'
import { decode, encode, type Form, layoutOf, type Stored, type Tables } from './pack'
import { type ChannelRanges, outliersPerEnd } from './split'

type Options = OptionsOf<typeof kvquantOptions>

const NAME = 'kvquant'

/** Keys before RoPE; ranges of key channels and signposts come from calibration. */
export const kvquant = defineQuantizer({
  name: NAME,
  title: 'KVQuant',
  summary:
    'Keys per channel before RoPE, values per token, to signposts learned by Fisher-weighted k-means; 1 % outliers stay exact.',
  paper: {
    title: 'KVQuant: Towards 10 Million Context Length LLM Inference with KV Cache Quantization',
    link: 'https://arxiv.org/abs/2401.18079',
  },
  options: kvquantOptions,
  window: ({ sinks, recent }) => evenWindows({ sinks, recent, block: 1 }),
  rope: 'pre',
  fit: (options) => ({
    scope: 'layer',
    ...(options.sensitivity === 'fisher' ? { gradients: { without: { sensitivity: 'none' } } } : {}),
    foresee: ({ heads }) => ({ mergedHeads: heads > 1 }),
    run: (samples) => fitKvquant(samples, options),
  }),
  quantizer(options, site, artifact): Quantizer<Stored> {
    const form = formOf(options, site, artifact)
    const tables = tablesOf(options, form, site, artifact)
    const { metadata, bits } = options
    const { dim, room, ranges } = form
    const metadataBits = metadata === 'f16' ? 16 : 32
    return {
      layout: layoutOf(form),
      table: tables.decoded,
      ...(tables.ranges ? { ranges: tables.ranges } : {}),
      ...(site.heads === 1 ? {} : { mergedHeads: true }),
      rowsPerGroup: 1,
      ...limitOf(form),
      theoreticalBitsPerValue:
        bits + ((ranges ? 0 : 2 * metadataBits) + room * (metadataBits + 8 * placeBytes(dim))) / dim,
      encode: (rows) => encode(rows, form, tables),
      decode: (stored, rows) => decode(stored, rows, form, tables),
    }
  },
})

/** Numbers of channels are kept in 16 bits, and so is the number that stands for none. */
const MOST_CHANNELS = 2 ** 16 - 1

/** @throws ModelMismatch, ArtifactMismatch */
function formOf({ bits, dense, metadata }: Options, site: Site, artifact: Artifact | undefined): Form {
  const dim = site.heads * site.dim
  if (dim > MOST_CHANNELS)
    throw new ModelMismatch(
      NAME,
      `a token has ${dim} KV channels, more than ${MOST_CHANNELS}.`,
      'Use another quantizer.',
    )
  const signposts = floats(learned(artifact, site, 'signposts', [2 ** bits]))
  const shared = { dim, bits, metadata, signposts }
  if (site.part === 'values') {
    const perEnd = outliersPerEnd(dim, dense)
    return { ...shared, room: 2 * perEnd, ranges: null, perEnd }
  }
  const ranges: ChannelRanges = {
    lower: ofSite(artifact, site, 'lower'),
    upper: ofSite(artifact, site, 'upper'),
    offset: ofSite(artifact, site, 'offset'),
    range: ofSite(artifact, site, 'range'),
  }
  const [all = 0, head = 0] = learned(artifact, site, 'room', [2]).values
  const whole = site.heads === headsOf(artifact, site)
  return { ...shared, room: Math.min(dim, whole ? all : head * site.heads), ranges, perEnd: 0 }
}

/** How many heads the ranges were learned for. A layer whose heads keep different tokens binds each of them on its own. */
const headsOf = (artifact: Artifact | undefined, site: Site): number => learned(artifact, site, 'lower').shape[0] ?? 0

/** Numbers of the site's channels, of a table `[heads, dim]`. @throws ArtifactMismatch */
function ofSite(artifact: Artifact | undefined, site: Site, name: string): Float32Array {
  const { firstHead, heads, dim } = site
  const table = floats(learned(artifact, site, name, [Math.max(headsOf(artifact, site), firstHead + heads), dim]))
  return table.length === heads * dim ? table : table.subarray(firstHead * dim, (firstHead + heads) * dim)
}

/** @throws ArtifactMismatch */
function floats({ values }: HostTensor): Float32Array {
  if (values instanceof Float32Array) return values
  throw new ArtifactMismatch(NAME, 'it holds whole numbers where ranges or signposts should be.')
}

function tablesOf(
  { qNorm }: Options,
  { dim, signposts, ranges }: Form,
  site: Site,
  artifact: Artifact | undefined,
): Tables {
  const entries = signposts.length
  const given = site.hold({ shape: [entries, 1], values: signposts })
  const decoded = qNorm
    ? site.hold({ shape: [entries, 1], values: floats(learned(artifact, site, 'decoded', [entries])) })
    : given
  if (!ranges) return { signposts: given, decoded, ranges: null }
  const both = new Float32Array(2 * dim)
  both.set(ranges.range)
  both.set(ranges.offset, dim)
  return { signposts: given, decoded, ranges: site.hold({ shape: [1, 2, dim], values: both }) }
}

/** The largest finite f32. */
const LARGEST_F32 = 3.4028234663852886e38

/** Outliers, ranges and offsets are no larger than the largest number; sums of two numbers must be finite. Dense keys store none of them. */
function limitOf({ metadata, ranges, room }: Form) {
  if (metadata === 'f32') return { largest: LARGEST_F32 / 2 }
  return ranges && room === 0
    ? { largest: LARGEST_F32 / 2 }
    : { largest: LARGEST_HALF, largestCure: "metadata: 'f32' holds larger numbers." }
}
