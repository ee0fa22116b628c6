/** What ReCalKV learns of a model: groups of heads and a map per group for keys, one calibrated map for values, and the ranks of all. */
import {
  type Asked,
  CalibrationError,
  type CalibrationRun,
  type HostTensor,
  type Learned,
  type ModelShape,
  type Part,
} from '@kvloom/core'
import { type Matrix, matrix, multiply, transpose } from '@kvloom/math'
import { projectionFisher } from './fisher'
import { groupHeads } from './grouping'
import { dimOf, groupSize, latents, type Options, rankOfGroup } from './groups'
import { fisherRanks, type LayerRanks, roundedRank } from './ranks'
import { headSimilarity } from './similarity'
import { calibrated, columnsOf, covarianceOf, type Maps, principalMaps } from './values'

const PARTS: readonly Part[] = ['keys', 'values']

/**
 * Per layer: `keys.down` and `values.down` `[1, rank, heads · dim]`, of rows with the heads side by side, and the maps back of the same shape:
 * `values.up`; for keys it is `keys.down` itself.
 * @throws ModelMismatch; CalibrationError when there are no rows, none that compressed layers hand on, or rows that are not finite
 */
export async function fitModel(run: CalibrationRun, options: Options, asked: Asked): Promise<Learned> {
  const { model } = run
  const size = groupSize(options, model)
  for (const part of PARTS) latents(options, model, part, asked)
  const ranks = await ranksOf(run, options, size, asked)
  const maps: Record<Part, Maps>[] = []
  const groups: (readonly (readonly number[])[])[] = []
  const replace = (layer: number, rows: Readonly<Record<Part, HostTensor>>) => {
    const of = maps[layer]
    return of ? { keys: through(rows.keys, of.keys), values: through(rows.values, of.values) } : rows
  }
  for (let layer = 0; layer < model.layers; layer++) {
    const dense = await run.rows(layer)
    const keys = merged(dense.keys, 'keys', layer)
    const own = groupHeads(headSimilarity(keys, model.kvHeads), size)
    groups.push(own)
    const rank = (part: Part) => ranks[part][layer] ?? 0
    const values = principalMaps(covarianceOf(merged(dense.values, 'values', layer)), rank('values') * own.length)
    maps.push({
      keys: groupedMaps(keys, model, own, rank('keys')),
      values: options.iterations > 0 ? await onShifted(run, layer, values, options.iterations, replace) : values,
    })
    run.progress?.({ layer, layers: model.layers, stage: 'recalkv', part: null })
  }
  const tensors: Record<string, HostTensor> = {}
  for (const [layer, { keys, values }] of maps.entries()) {
    tensors[`${layer}.keys.down`] = table(keys.down)
    tensors[`${layer}.values.down`] = table(values.down)
    tensors[`${layer}.values.up`] = table(transpose(values.up))
  }
  return {
    json: {
      keyRanks: [...ranks.keys],
      valueRanks: [...ranks.values],
      groups: groups.map((g) => g.map((heads) => [...heads])),
    },
    tensors,
  }
}

const table = ({ rows, columns, data }: Matrix): HostTensor => ({
  shape: [1, rows, columns],
  values: Float32Array.from(data),
})

/** The rank of a group, per layer and part. */
async function ranksOf(run: CalibrationRun, options: Options, size: number, asked: Asked): Promise<LayerRanks> {
  const { model } = run
  const full = (part: Part) => size * dimOf(model, part)
  const groups = model.kvHeads / size
  const { keep, block } = options
  const fitting = (part: Part, ranks: Int32Array) => ranks.map((rank) => rankOfGroup(rank, full(part), asked))
  if (options.allocation === 'uniform') {
    const all = (part: Part) => new Int32Array(model.layers).fill(roundedRank(keep * full(part), block))
    return { keys: fitting('keys', all('keys')), values: fitting('values', all('values')) }
  }
  const fisher = await projectionFisher(run, options.fisherTokens)
  const width = { keys: groups * full('keys'), values: groups * full('values') }
  const { ranks } = fisherRanks(fisher, { keep, width, groups, block })
  return { keys: fitting('keys', ranks.keys), values: fitting('values', ranks.values) }
}

/** The leading directions of each group's keys, one group after the other: `[groups · rank, heads · dim]`, 0 at the heads of other groups. */
function groupedMaps(
  keys: Matrix,
  { keyDim: dim }: ModelShape,
  groups: readonly (readonly number[])[],
  rank: number,
): Maps {
  const down = matrix(groups.length * rank, keys.columns)
  for (const [group, heads] of groups.entries()) {
    const columns = heads.flatMap((head) => Array.from({ length: dim }, (_, c) => head * dim + c))
    const own = principalMaps(covarianceOf(columnsOf(keys, columns)), rank).down
    for (let i = 0; i < rank; i++)
      for (const [at, column] of columns.entries())
        down.data[(group * rank + i) * keys.columns + column] = own.data[i * columns.length + at] ?? 0
  }
  return { down, up: transpose(down) }
}

/** Value maps that are calibrated on what compressed layers hand on. */
async function onShifted(
  run: CalibrationRun,
  layer: number,
  maps: Maps,
  iterations: number,
  replace: Parameters<NonNullable<CalibrationRun['shifted']>>[1],
): Promise<Maps> {
  if (!run.shifted)
    throw new CalibrationError(
      'recalkv',
      'this engine does not run its layers on compressed rows. Leave value calibration out: recalkv({ iterations: 0 }).',
    )
  const rows = merged((await run.shifted(layer, replace)).values, 'values', layer)
  const covariance = covarianceOf(rows)
  let result = maps
  for (let round = 0; round < iterations; round++) result = calibrated(result, covariance)
  return result
}

/** Rows `[heads, tokens, dim]` through their latents and back. */
function through(rows: HostTensor, { down, up }: Maps): HostTensor {
  const back = multiply(multiply(merged([rows], null, 0), transpose(down)), transpose(up))
  const [heads = 0, tokens = 0, dim = 0] = rows.shape
  const values = new Float32Array(heads * tokens * dim)
  for (let at = 0; at < values.length; at++) {
    const [head, token, c] = [Math.floor(at / (tokens * dim)), Math.floor(at / dim) % tokens, at % dim]
    values[at] = back.data[(token * heads + head) * dim + c] ?? 0
  }
  return { shape: rows.shape, values }
}

/** All tokens of all sequences, heads side by side: `[tokens, heads · dim]`. `part` names them where they may be empty or not finite. */
function merged(sequences: readonly HostTensor[], part: Part | null, layer: number): Matrix {
  const [heads = 0, , dim = 0] = sequences[0]?.shape ?? []
  const tokens = sequences.reduce((sum, { shape }) => sum + (shape[1] ?? 0), 0)
  if (part && tokens === 0) throw new CalibrationError('recalkv', `there are no ${part} of layer ${layer} to look at.`)
  const all = new Float64Array(tokens * heads * dim)
  let from = 0
  for (const { shape, values } of sequences) {
    const n = shape[1] ?? 0
    for (let at = 0; at < values.length; at++) {
      const [head, token, c] = [Math.floor(at / (n * dim)), Math.floor(at / dim) % n, at % dim]
      all[((from + token) * heads + head) * dim + c] = values[at] ?? 0
    }
    from += n
  }
  if (part && !all.every(Number.isFinite))
    throw new CalibrationError('recalkv', `some ${part} of layer ${layer} are not finite numbers.`)
  return matrix(tokens, heads * dim, all)
}
