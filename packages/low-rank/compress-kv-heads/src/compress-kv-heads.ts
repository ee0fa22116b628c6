/**
 * Effectively Compress KV Heads: the KV heads of a layer resemble each other, so a group of s heads keeps its rows in a space of fewer
 * dimensions, which the rows of calibration text span best. With one head's channels as the rank, s heads become one.
 *
 *   X_g [tokens, s · dim] = the rows of the heads of group g side by side, keys after RoPE = U S Ψᵀ     not centred
 *   c = [k¹ | … | kˢ] Ψ_r                 stored, r numbers per token and group
 *   q · kʰ' = (q Ψ_r,hᵀ) · c              Ψ_r,h: the block of head h; keys are never rebuilt
 *   vʰ' = c Ψ_r,hᵀ                        applied to the output of attention, once per query head
 *
 * H. Yu et al., "Effectively Compress KV Heads for LLM" (arXiv 2406.07056): the SVD of calibration caches ("SVD-a") and its keys after RoPE. No code
 * of the authors was found; details are a second-hand reading. What differs: nothing is fine-tuned, while the paper trains LoRA
 * afterwards; weights stay as they are and rows are projected (the same numbers, since the maps stand behind RoPE or can be multiplied
 * into the projections); models with few KV heads may be grouped further, the query heads of a KV head using its block.
 * `rope: 'pre'` projects keys before RoPE, where they need fewer dimensions, and rebuilds and rotates them when they are read.
 */
import { ArtifactMismatch, defineTransform, gainOf, KvloomError, learned, NO_SEALING } from '@kvloom/core'
import { mergeHeads } from '@kvloom/kernels'
import {
  matMul,
  slice,
  squeeze,
  stack,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  transpose,
} from '@tensorflow/tfjs-core'
import { fitGroups } from './fit'
import { headsPerGroup, latents } from './groups'
import { compressKvHeadsOptions } from './options'

/** A token is compressed as soon as it is there. */
const NOTHING_EXACT = { recent: 0, block: 1, drain: 'all' } as const

/** Keys and values of a group of heads in the leading directions of the group's calibration rows. */
export const compressKvHeads = defineTransform({
  name: 'compress-kv-heads',
  title: 'Effectively Compress KV Heads',
  summary: 'Groups of KV heads in the leading directions of their calibration rows, keys after RoPE.',
  paper: {
    title: 'Effectively Compress KV Heads for LLM',
    link: 'https://arxiv.org/abs/2406.07056',
  },
  options: compressKvHeadsOptions,
  parts: ({ parts }) => (parts === 'both' ? ['keys', 'values'] : [parts]),
  rope: ({ rope }) => rope,
  mergesHeads: (options) => options.headsPerGroup !== 1,
  window: ({ parts }) => ({
    sinks: 0,
    keys: parts === 'values' ? NO_SEALING.keys : NOTHING_EXACT,
    values: parts === 'keys' ? NO_SEALING.values : NOTHING_EXACT,
  }),
  // The paper changes the weights: a step sees its own rows compressed, and so does the prompt.
  ownRows: 'stored',
  fit: (options) => ({
    scope: 'layer',
    foresee: ({ model, dim, part }, asked) => ({
      main: latents(options, { kvHeads: model.kvHeads, dim, part }, asked),
    }),
    run: (samples, asked) => fitGroups(samples, options, asked),
  }),
  transform(options, site, artifact) {
    const { heads, dim, layer, model, firstHead } = site
    const size = headsPerGroup(options, model.kvHeads)
    const all = learned(artifact, site, 'basis')
    const [allGroups = 0, rank = 0, width = 0] = all.shape
    if (all.shape.length !== 3 || allGroups !== model.kvHeads / size || width !== size * dim)
      throw new ArtifactMismatch(
        'compress-kv-heads',
        `the basis of layer ${layer} has shape [${all.shape.join(', ')}] instead of [${model.kvHeads / size}, rank, ${size * dim}].`,
      )
    // A ragged layer binds each head alone, and such heads have groups of their own.
    const groups = heads / size
    const [from, count] = [(firstHead / size) * rank * width, groups * rank * width]
    const basis =
      groups === allGroups ? all : { shape: [groups, rank, width], values: all.values.slice(from, from + count) }
    const up = site.hold(basis) // [groups, rank, size · dim]
    return {
      fitted: 'model',
      needs: {},
      main: { heads: groups, dim: rank },
      gain: gainOf(basis),
      encode([rows]) {
        if (!rows)
          throw new KvloomError('COMPRESS_KV_HEADS_ROWS', 'compress-kv-heads: encode takes the rows of one layer.')
        return {
          main: stack(Array.from({ length: groups }, (_, g) => project(rows as Tensor3D, up as Tensor3D, g, size))),
        }
      },
      decoder: () => ({ up }),
    }
  },
})

/** The latents `[n, rank]` of one group. It is a plain product of two matrices: tfjs's wasm multiplies transposed ones ten times slower. */
function project(rows: Tensor3D, up: Tensor3D, group: number, size: number): Tensor {
  const side = mergeHeads(slice(rows, [group * size, 0, 0], [size, -1, -1])) // [n, size · dim]
  const basis = squeeze(slice(up, [group, 0, 0], [1, -1, -1]), [0]) as Tensor2D // [rank, size · dim]
  return matMul(side, transpose(basis))
}
