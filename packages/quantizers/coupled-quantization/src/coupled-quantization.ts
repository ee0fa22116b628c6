/**
 * Coupled Quantization: channels of keys and values depend on each other, so a few channels together need fewer bits than
 * each alone. Groups of c adjacent channels of a head share one code of b bits, the nearest of 2^b centroids that were
 * learned once per model, with tokens weighted by how much the loss depends on them: b / c bits per value, nothing besides.
 *
 *   code[t, i] = argmin_j |x[t, i] - C[i, j]|²    x'[t, i] = C[i, code[t, i]]    i: group of c channels, j: centroid
 *   C[i] = argmin Σ_t w[t, i] · |x[t, i] - C(x[t, i])|²    w[t, i] = Σ over the group's channels of (∂loss/∂x)²
 *
 * T. Zhang et al., "KV Cache is 1 Bit Per Channel: Efficient Large Language Model Inference with Coupled Quantization"
 * (arXiv 2405.03917), section 3. No code of the authors is public. What differs: centroids are kept in float32, where the
 * paper has halves; k-means++ starts from a sample of the rows, and a centroid that lost all its members is seeded anew.
 */
import {
  type Artifact,
  defineQuantizer,
  evenWindows,
  type HostTensor,
  learned,
  ModelMismatch,
  type OptionsOf,
  type Site,
} from '@kvloom/core'
import { type CodebookLayout, codebookDecode, codebookEncode, codebookShapes } from '@kvloom/kernels'
import { fitCodebooks } from './fit'
import { coupledQuantizationOptions } from './options'

const NAME = 'coupled-quantization'

/** `channels` adjacent channels as one code of `bits` bits; keys before RoPE. Codebooks come from calibration. */
export const coupledQuantization = defineQuantizer({
  name: NAME,
  title: 'Coupled Quantization',
  summary:
    'Adjacent channels share one code, the nearest of centroids learned by Fisher-weighted k-means; 1 to 4 bits.',
  paper: {
    title: 'KV Cache is 1 Bit Per Channel: Efficient Large Language Model Inference with Coupled Quantization',
    link: 'https://arxiv.org/abs/2405.03917',
  },
  options: coupledQuantizationOptions,
  window: ({ sinks, recent }) => evenWindows({ sinks, recent, block: 1 }),
  rope: 'pre',
  channels: ({ channels }) => ({ multipleOf: channels, of: 'head' }),
  fit: (options) => ({
    scope: 'layer',
    ...(options.sensitivity === 'fisher' ? { gradients: { without: { sensitivity: 'none' } } } : {}),
    run: (samples) => fitCodebooks(samples, layoutOf(options, samples.dim), options),
  }),
  quantizer(options, site, artifact) {
    const layout = layoutOf(options, site.dim)
    const { heads, dim } = site
    const table = site.hold(codebookOf(site, layout, artifact))
    return {
      layout,
      table,
      rowsPerGroup: 1,
      theoreticalBitsPerValue: options.bits / options.channels,
      encode: (rows) => codebookEncode(rows, layout, table),
      decode: (block, rows) => codebookDecode(block, layout, table, { heads, rows, dim }),
    }
  },
})

/** @throws ModelMismatch when the groups do not fit the rows. */
function layoutOf({ channels, bits }: OptionsOf<typeof coupledQuantizationOptions>, dim: number): CodebookLayout {
  if (dim % channels !== 0)
    throw new ModelMismatch(
      NAME,
      `its rows have ${dim} channels, which groups of ${channels} do not divide.`,
      `Choose channels that divide ${dim}.`,
    )
  return {
    kind: 'codebook',
    vector: channels,
    entries: 2 ** bits,
    tables: 'channels',
    scale: 'none',
    group: 0,
    hadamard: 0,
  }
}

/** The codebooks of the site's heads, `[heads, dim / channels, 2^bits, channels]`. @throws ArtifactMismatch */
function codebookOf(site: Site, layout: CodebookLayout, artifact: Artifact | undefined): HostTensor {
  const [, ...book] = codebookShapes(NAME, layout, site.heads, 0, site.dim).table
  const heads = Math.max(learned(artifact, site, 'codebook').shape[0] ?? 0, site.firstHead + site.heads)
  const shape = [heads, ...book]
  const { values } = learned(artifact, site, 'codebook', shape)
  if (heads === site.heads) return { shape, values }
  // A layer whose heads keep different tokens binds each of them on its own.
  const size = values.length / heads
  const own = values.subarray(site.firstHead * size, (site.firstHead + site.heads) * size)
  return { shape: [site.heads, ...book], values: own }
}
