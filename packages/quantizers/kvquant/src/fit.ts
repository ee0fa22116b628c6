/**
 * What KVQuant learns (arXiv 2401.18079, sections 3.1 to 3.4): ranges of key channels, and signposts by k-means over normalized
 * numbers, weighted by squared gradients of the loss.
 */
import { CalibrationError, type HostTensor, type LayerSamples, type Learned, type OptionsOf } from '@kvloom/core'
import { lloydMaxOfSamples, seededRandom } from '@kvloom/math'
import type { kvquantOptions } from './options'
import { type ChannelRanges, keyOutliers, middleOf, normalized, quantileOf } from './split'

type Options = OptionsOf<typeof kvquantOptions>

const NAME = 'kvquant'
/** Share of the calibration outliers of keys that find room, when the options do not say how many. */
const ROOM_FOR = 0.99
/** Bins of the numbers between -1 and 1 from which signposts are learned: far narrower than signposts are apart. */
const BINS = 2 ** 14
/** Starts of the k-means besides quantiles. */
const RESTARTS = 2

/** Numbers between -1 and 1 with their weights. */
export interface Normalized {
  readonly x: Float32Array
  readonly weights: Float32Array
  /** How many numbers there were with the outliers. */
  readonly of: number
}

/** Fits one part of one layer. @throws CalibrationError */
export async function fitKvquant(samples: LayerSamples, options: Options): Promise<Learned> {
  const { part, heads, dim, target } = samples
  const gradients = options.sensitivity === 'fisher' ? gradientsOf(samples) : undefined
  for (const { values } of [...target, ...(gradients ?? [])])
    if (!values.every(Number.isFinite))
      throw new CalibrationError(NAME, `the ${part} of layer ${samples.layer} or their gradients are not finite.`)
  const rows = target.map(mergeHeads)
  const squares = gradients?.map(mergeHeads)
  const ranges = part === 'keys' ? channelRanges(rows, heads * dim, options.dense) : null
  const found = normalizedRows(rows, squares, heads * dim, ranges, options)
  const entries = 2 ** options.bits
  if (found.x.length < entries)
    throw new CalibrationError(
      NAME,
      `${found.x.length} calibration numbers for ${entries} signposts. Give it more text, or fewer bits.`,
    )
  const signposts = learnSignposts(found, options)
  const norm = options.qNorm ? qNormOf(found.x, signposts) : null
  const perHead = { shape: [heads, dim] }
  return {
    json: { numbers: found.x.length, outliers: 1 - found.x.length / found.of, qNorm: norm && { ...norm } },
    tensors: {
      signposts: { shape: [entries], values: signposts },
      ...(norm ? { decoded: { shape: [entries], values: moved(signposts, norm) } } : {}),
      ...(ranges
        ? {
            lower: { ...perHead, values: ranges.lower },
            upper: { ...perHead, values: ranges.upper },
            offset: { ...perHead, values: ranges.offset },
            range: { ...perHead, values: ranges.range },
            room: { shape: [2], values: Int32Array.from(roomFor(rows, ranges, heads, dim, options)) },
          }
        : {}),
    },
  }
}

function gradientsOf({ gradients, target, part, layer }: LayerSamples): readonly HostTensor[] {
  if (!gradients)
    throw new CalibrationError(
      NAME,
      `sensitivity "fisher" weighs numbers by gradients of the loss, and there are none for the ${part} of layer ${layer}: ` +
        'the engine offers none. Use sensitivity "none".',
    )
  if (target.some(({ values }, i) => values.length !== gradients[i]?.values.length))
    throw new CalibrationError(NAME, `gradients and ${part} of layer ${layer} differ in shape.`)
  return gradients
}

/** `[heads, n, dim]` to `[n, heads * dim]`. */
function mergeHeads({ shape, values }: HostTensor): Float32Array {
  const [heads = 0, n = 0, dim = 0] = shape
  const out = new Float32Array(values.length)
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < n; row++) {
      const from = (head * n + row) * dim
      out.set(values.subarray(from, from + dim), (row * heads + head) * dim)
    }
  return out
}

/** Ranges that `dense` of the numbers of each channel lie in. */
export function channelRanges(rows: readonly Float32Array[], dim: number, dense: number): ChannelRanges {
  const tokens = rows.reduce((sum, { length }) => sum + length / dim, 0)
  if (tokens === 0) throw new CalibrationError(NAME, 'it was given no calibration tokens.')
  const [lower, upper, offset, range] = [0, 0, 0, 0].map(() => new Float32Array(dim)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ]
  const share = 1 - (1 - dense) / 2
  const column = new Float32Array(tokens)
  for (let channel = 0; channel < dim; channel++) {
    let at = 0
    for (const sequence of rows)
      for (let place = channel; place < sequence.length; place += dim) column[at++] = sequence[place] ?? 0
    column.sort()
    lower[channel] = quantileOf(column, 1 - share)
    upper[channel] = quantileOf(column, share)
    const middle = middleOf(lower[channel] ?? 0, upper[channel] ?? 0)
    offset[channel] = middle.offset
    range[channel] = middle.range
  }
  return { lower, upper, offset, range }
}

/** Normalized numbers of the calibration tokens, without outliers, sinks, and tokens beyond `maxSamples`. */
export function normalizedRows(
  rows: readonly Float32Array[],
  squares: readonly Float32Array[] | undefined,
  dim: number,
  ranges: ChannelRanges | null,
  { dense, sinks, maxSamples, seed }: Pick<Options, 'dense' | 'sinks' | 'maxSamples' | 'seed'>,
): Normalized {
  const places = rows.flatMap((sequence, s) =>
    Array.from({ length: Math.max(0, sequence.length / dim - sinks) }, (_, i) => ({ s, from: (sinks + i) * dim })),
  )
  const chosen =
    places.length <= maxSamples
      ? places.keys()
      : seededRandom(seed).permutation(places.length).subarray(0, maxSamples).sort()
  const x: number[] = []
  const weights: number[] = []
  let of = 0
  for (const i of chosen) {
    const { s = 0, from = 0 } = places[i] ?? {}
    const row = (rows[s] ?? new Float32Array(0)).subarray(from, from + dim)
    const token = ranges ? null : tokenRange(row, dense)
    for (let channel = 0; channel < dim; channel++) {
      of++
      const offset = token ? token.offset : (ranges?.offset[channel] ?? 0)
      const range = token ? token.range : (ranges?.range[channel] ?? 0)
      const value = normalized(row[channel] ?? 0, offset, range)
      if (Math.abs(value) > 1) continue
      x.push(value)
      weights.push(squares ? (squares[s]?.[from + channel] ?? 0) : 1)
    }
  }
  return { x: Float32Array.from(x), weights: Float32Array.from(weights), of }
}

/** Calibration takes a token's range between its quantiles, as it does for channels. */
function tokenRange(row: Float32Array, dense: number): { readonly offset: number; readonly range: number } {
  const sorted = row.slice().sort()
  const share = 1 - (1 - dense) / 2
  return middleOf(quantileOf(sorted, 1 - share), quantileOf(sorted, share))
}

/** Signposts `[2^bits]`, rising: 1-D k-means. Where the loss depends on nothing, all numbers weigh the same. */
export function learnSignposts(found: Normalized, { bits, seed }: Pick<Options, 'bits' | 'seed'>): Float32Array {
  const levels = 2 ** bits
  const weights = found.weights.some((w) => w > 0) ? found.weights : found.weights.map(() => 1)
  const points = gathered(found.x, weights, levels)
  const { centroids } = lloydMaxOfSamples(points.x, levels, { seed, restarts: RESTARTS, weights: points.weights })
  return Float32Array.from(centroids)
}

/**
 * Numbers of one bin as their weighted mean: what they cost together they cost at any signpost, but for a constant. k-means over all numbers
 * of many tokens would take minutes. Few numbers, and those in few bins, stay as they are.
 */
function gathered(x: Float32Array, weights: Float32Array, least: number) {
  if (x.length <= BINS) return { x, weights }
  const [sums, total] = [new Float64Array(BINS), new Float64Array(BINS)]
  for (const [i, value] of x.entries()) {
    const [bin, w] = [Math.min(BINS - 1, Math.floor(((value + 1) / 2) * BINS)), weights[i] ?? 0]
    sums[bin] = (sums[bin] ?? 0) + w * value
    total[bin] = (total[bin] ?? 0) + w
  }
  const used = [...total.keys()].filter((bin) => (total[bin] ?? 0) > 0)
  if (used.length < least) return { x, weights }
  return {
    x: Float64Array.from(used, (bin) => (sums[bin] ?? 0) / (total[bin] ?? 1)),
    weights: Float64Array.from(used, (bin) => total[bin] ?? 0),
  }
}

/** What Q-Norm does to signposts: `y · scale + offset` has the mean and the deviation that the numbers had before. */
export interface QNorm {
  readonly scale: number
  readonly offset: number
}

/** The paper's section 3.6 (its equation on shifted distributions). */
export function qNormOf(x: Float32Array, signposts: Float32Array): QNorm {
  const before = momentsOf(x)
  const after = momentsOf(x.map((value) => nearest(value, signposts)))
  if (after.deviation === 0) return { scale: 1, offset: before.mean - after.mean }
  const scale = before.deviation / after.deviation
  return { scale, offset: before.mean - after.mean * scale }
}

export const moved = (signposts: Float32Array, { scale, offset }: QNorm): Float32Array =>
  signposts.map((y) => y * scale + offset)

function momentsOf(x: Float32Array): { readonly mean: number; readonly deviation: number } {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length
  return { mean, deviation: Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length) }
}

/** The nearest of rising signposts; the lower of two that are as near. */
export function nearest(value: number, signposts: Float32Array): number {
  let best = signposts[0] ?? 0
  for (const y of signposts) if (Math.abs(value - y) < Math.abs(value - best)) best = y
  return best
}

/**
 * How many outliers a token's keys have room for: the least with which `ROOM_FOR` of the outliers of calibration find some. First over all
 * heads, then for the head that needs most.
 */
function roomFor(
  rows: readonly Float32Array[],
  ranges: ChannelRanges,
  heads: number,
  dim: number,
  { dense, keyOutliers: asked }: Options,
): readonly [all: number, head: number] {
  if (dense >= 1) return [0, 0]
  const width = heads * dim
  if (asked !== null) return [Math.min(asked, width), Math.min(asked, dim)]
  const counts = {
    all: new Map<number, number>(),
    head: Array.from({ length: heads }, () => new Map<number, number>()),
  }
  for (const sequence of rows)
    for (let from = 0; from < sequence.length; from += width) {
      const found = keyOutliers(sequence.subarray(from, from + width), ranges, width)
      add(counts.all, found.length)
      for (const [head, own] of counts.head.entries())
        add(own, found.filter((p) => Math.floor(p / dim) === head).length)
    }
  return [leastRoom(counts.all), Math.max(...counts.head.map(leastRoom))]
}

function add(counts: Map<number, number>, n: number): void {
  counts.set(n, (counts.get(n) ?? 0) + 1)
}

/** Of a histogram of outliers per token. At least one, so that rows of every artifact have the same fields. */
function leastRoom(counts: ReadonlyMap<number, number>): number {
  const all = [...counts].reduce((sum, [n, tokens]) => sum + n * tokens, 0)
  for (let room = 1; ; room++) {
    const found = [...counts].reduce((sum, [n, tokens]) => sum + Math.min(n, room) * tokens, 0)
    if (found >= ROOM_FOR * all) return room
  }
}
