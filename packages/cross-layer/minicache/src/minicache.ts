/**
 * MiniCache: in the upper half of a model the keys (and values) of a token point in similar directions in neighbouring
 * layers. So two layers share one direction per token and KV head, interpolated on the sphere between theirs, and each
 * keeps its own lengths; rows whose directions differ too much stay exact.
 *
 *   Om = angle(a, b),  e = sin((1 - t) Om) / sin Om · a / |a| + sin(t Om) / sin Om · b / |b|,  e / |e|
 *   a' = |a| e,  b' = |b| e        a: lower layer, b: upper layer
 *
 * A. Liu et al., "MiniCache: KV Cache Compression in Depth Dimension for Large Language Models" (arXiv 2405.14366),
 * sections 3 and 4. The authors published no code. What differs: which layer t weighs and which rows are retained follow the
 * two re-implementations (`retention` names them; see the README); rows are merged in blocks as they leave the window,
 * and retained within a block, where the paper merges a prompt whole and then token by token.
 */
import { defineTransform, evenWindows, ModelMismatch, type OptionsOf } from '@kvloom/core'
import { LARGEST_HALF, selectTop } from '@kvloom/kernels'
import {
  acos,
  add,
  any,
  cast,
  clipByValue,
  concat,
  div,
  equal,
  expandDims,
  lessEqual,
  max,
  maximum,
  min,
  mul,
  norm,
  ones,
  onesLike,
  range,
  sin,
  slice,
  sub,
  sum,
  type Tensor,
  tidy,
} from '@tensorflow/tfjs-core'
import { minicacheOptions } from './options'

type Options = OptionsOf<typeof minicacheOptions>

/** A row shorter than this has no direction: its unit row shrinks to zero with it instead of dividing by zero. */
const SHORTEST = 1e-6
/** The interpolation divides by sin Om: parallel and opposite rows count as 1.4e-3 apart (as in KVCache-Factory). */
const LARGEST_COSINE = 1 - 1e-6

/** Pairs of layers from the middle on share the directions of their rows; lengths and unlike rows stay their own. */
export const minicache = defineTransform({
  name: 'minicache',
  title: 'MiniCache',
  summary: 'Pairs of neighbouring layers share one direction per row and keep their own lengths.',
  paper: {
    title: 'MiniCache: KV Cache Compression in Depth Dimension for Large Language Models',
    link: 'https://arxiv.org/abs/2405.14366',
  },
  options: minicacheOptions,
  rope: 'free', // both layers' keys of a token are turned by the same rotation
  dim: (_, { dim }) => dim,
  layerGroup: 2,
  window: ({ block }) => evenWindows({ block }),
  transform: (options, site) => ({
    fitted: 'model',
    needs: {},
    main: { heads: site.heads, dim: site.dim },
    // The lengths of rows are stored as f16.
    largest: LARGEST_HALF / Math.sqrt(site.dim),
    layers: pairOf(site.layer, site.model.layers, options), // empty: this layer stays as it is
    encode([a, b]) {
      if (!a || !b) throw new ModelMismatch('minicache', 'it merges two layers.', 'Hand over the rows of both.')
      const exempt = retained(a, b, options)
      return {
        main: direction(a, b, options.t),
        scale: [norm(a, 'euclidean', 2), norm(b, 'euclidean', 2)], // [heads, n] each
        ...(exempt ? { exempt } : {}),
      }
    },
    decoder: () => ({}), // x = scale · main
  }),
})

/** The layers merged with this one, lower first; none below `start` and for a last layer that is left over. */
function pairOf(layer: number, layers: number, { start }: Options): readonly number[] {
  const first = start === 'middle' ? Math.floor(layers / 2) : start
  if (first + 1 >= layers)
    throw new ModelMismatch(
      'minicache',
      `it has ${layers} layers, and no two of them are left from layer ${first} on.`,
      'Choose a smaller start.',
    )
  const lower = layer - ((((layer - first) % 2) + 2) % 2)
  return layer < first || lower + 1 >= layers ? [] : [lower, lower + 1]
}

/** Shared unit rows `[heads, n, dim]` of `a` (t = 0) and `b` (t = 1); zero where they cancel or both are zero. */
function direction(a: Tensor, b: Tensor, t: number): Tensor {
  const angle = expandDims(angleBetween(a, b), 2) // [heads, n, 1]
  const weigh = (x: Tensor, share: number) => mul(div(sin(mul(angle, share)), sin(angle)), unit(x))
  return unit(add(weigh(a, 1 - t), weigh(b, t)))
}

/** Rows over their length. */
const unit = (x: Tensor): Tensor => div(x, maximum(norm(x, 'euclidean', 2, true), SHORTEST))

/** Cosine of the rows of two `[heads, n, dim]`: `[heads, n]`, at most `largest` in size. 0 where a row is zero. */
const cosineOf = (a: Tensor, b: Tensor, largest: number): Tensor =>
  clipByValue(sum(mul(unit(a), unit(b)), 2), -largest, largest)

/**
 * Angle in radians between the rows of two layers, as MiniCache sees it: never closer than 1.4e-3 to 0 or pi, pi / 2 where a
 * row is zero.
 * @param a, b `[heads, n, dim]`
 * @returns `[heads, n]`, the caller's
 */
export const angleBetween = (a: Tensor, b: Tensor): Tensor => tidy(() => acos(cosineOf(a, b, LARGEST_COSINE)))

/** Rows that stay exact in both layers, 1 in `[heads, n]`, decided block by block; nothing when none may. */
function retained(a: Tensor, b: Tensor, options: Options): Tensor | undefined {
  const { retention, gamma, block } = options
  if (retention === 'topRatioPerHead' && gamma === 0) return undefined
  const [heads = 0, n = 0, dim = 0] = a.shape
  if (gamma === 1 || n === 0) return ones([heads, n]) // min + 1 · (max - min) rounds to either side of max
  const masks: Tensor[] = []
  for (let from = 0; from < n; from += block) {
    const cut = (x: Tensor) => slice(x, [0, from, 0], [heads, Math.min(block, n - from), dim])
    masks.push(RETENTION[retention](cut(a), cut(b), gamma))
  }
  return concat(masks, 1)
}

/** What stays exact of a block: two `[heads, n, dim]` to `[heads, n]`. */
const RETENTION: Readonly<Record<Options['retention'], (a: Tensor, b: Tensor, gamma: number) => Tensor>> = {
  /** Of each head the ceil(gamma · n) rows with the widest angle (KVCache-Factory); of equal angles the earlier. */
  topRatioPerHead(a, b, gamma) {
    const angle = angleBetween(a, b)
    const [, n = 0] = angle.shape
    const widest = expandDims(selectTop(angle, Math.ceil(gamma * n)), 2) // [heads, k, 1]
    // Not oneHot, which takes no fewer than two rows.
    return sum(cast(equal(widest, range(0, n, 1, 'int32')), 'float32'), 1)
  },
  /** In all heads a token of which any head comes within gamma of the range to the smallest cosine: the paper's purpose. */
  cosineBand(a, b, gamma) {
    const cosine = cosineOf(a, b, 1)
    const near = any(lessEqual(cosine, within(cosine, gamma)), 0, true) // [1, n]
    return mul(onesLike(cosine), near)
  },
  /** The inequality to the letter, on angles (xKV): keeps the rows that are most alike, over all heads at once. */
  minAngleBand(a, b, gamma) {
    const angle = acos(cosineOf(a, b, 1))
    return mul(onesLike(angle), lessEqual(angle, within(angle, gamma)))
  },
}

/** min + gamma · (max - min) of all elements. */
function within(x: Tensor, gamma: number): Tensor {
  const least = min(x)
  return add(least, mul(sub(max(x), least), gamma))
}
