/** Cases made by the authors' FreqKV: its filter alone, and streams of chunks through a cache that is filtered when full. */

import { type KVCache, type KVCompressor, type ModelShape, type Part, siteOf, stagesOn, upload } from '@kvloom/core'
import {
  type Arena,
  type CaseAdapter,
  compareArrays,
  compareNamed,
  feed,
  fromTensor,
  type GoldenCase,
  GoldenError,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  openExact,
  type Rows,
  rowsOf,
  type TensorResult,
  textOption,
  toTensor,
  withArena,
} from '@kvloom/golden'
import { readRows } from '@kvloom/kernels'
import { concat, type Tensor } from '@tensorflow/tfjs-core'
import { freqkv, lowPass } from '../src/freqkv'

/** FreqKV against its authors' data. */
export const adapter: CaseAdapter = { method: 'freqkv', run: runCase }

async function runCase(golden: GoldenCase): Promise<Outcome | null> {
  if (textOption(golden, 'operator', '') === 'dctCompress') return filterOnce(golden)
  if (textOption(golden, 'mode', '') === 'iterative') return stream(golden)
  return null
}

/** All rows of a case filtered once. */
async function filterOnce(golden: GoldenCase): Promise<Outcome> {
  const x = await golden.input('x')
  const tokens = x.shape[1] ?? 0
  if (numberOption(golden, 'tokens', tokens) !== tokens)
    throw new GoldenError(`Case ${golden.name} has ${tokens} tokens, and its options say otherwise.`)
  const compressed = await withArena(async (arena) => {
    const filter = lowPass(tokens, numberOption(golden, 'keepCoefficients')).apply((table) => arena.own(upload(table)))
    return fromTensor(arena.own(filter(arena.own(toTensor(x)))))
  })
  return { tensors: await compareNamed(golden, { compressed }) }
}

/** A whole text, in the authors' chunks and again token by token, which must give the same. */
async function stream(golden: GoldenCase): Promise<Outcome | null> {
  // The authors' code fails on recent rows, so no data of them can exist.
  if (numberOption(golden, 'recent', 0) !== 0) return null
  const compressor = freqkv({
    window: numberOption(golden, 'window'),
    sinks: numberOption(golden, 'sinks'),
    keep: numberOption(golden, 'keep'),
  })
  const rows = await rowsOf(golden)
  const model = shapeOf(golden, rows)
  const { sinks, capacity, to } = await withArena(async (arena) => {
    const [stage] = stagesOn(compressor, 'resample', 0)
    if (!stage) throw new GoldenError(`${compressor.card.name} does not resample.`)
    return stage.bind(siteOf(model, 0, 'keys', (table) => arena.own(upload(table))))
  })
  const chunk = capacity - sinks - to
  const tensors = compareCounts(golden, { N: capacity - sinks, M: to, chunk })
  for (const [most, how] of [
    [chunk, 'in chunks'],
    [1, 'token by token'],
  ] as const) {
    const { results, compressions } = await run(compressor, model, rows, { most, full: capacity, left: sinks + to })
    const compared = [
      ...(await compareNamed(golden, results)),
      ...compareCounts(golden, { compressions, finalSlots: results['finalKeys']?.shape[1] ?? 0 }),
    ]
    tensors.push(...compared.map((each) => ({ ...each, name: `${each.name} (${how})` })))
  }
  return { tensors }
}

/** All rows through a cache, at most `most` at once and none across the moment at which it is full. */
async function run(
  compressor: KVCompressor,
  model: ModelShape,
  rows: Rows,
  { most, full, left }: { readonly most: number; readonly full: number; readonly left: number },
): Promise<{ results: Record<string, NdArray>; compressions: number }> {
  const tokens = rows.keys.shape[1] ?? 0
  const cache = openExact(compressor, model)
  try {
    return await withArena(async (arena) => {
      const outputs: Tensor[] = []
      let compressions = 0
      for (let from = 0; from < tokens; ) {
        const before = cache.census(0).keys.exact
        const free = before === full ? full - left : full - before
        const count = Math.min(most, free, tokens - from)
        const output = await feed(cache, rows, from, count, from === 0 ? 'promptEnd' : 'decode')
        if (cache.census(0).keys.exact < before + count) compressions++
        outputs.push(arena.own(toTensor(output)))
        from += count
      }
      const results = {
        attentionOutput: await fromTensor(arena.own(concat(outputs, 1))),
        finalKeys: await stored(cache, 'keys', arena),
        finalValues: await stored(cache, 'values', arena),
      }
      return { results, compressions }
    })
  } finally {
    cache.dispose()
  }
}

/** Rows of a part as they are stored: keys before RoPE. */
async function stored(cache: KVCache, part: Part, arena: Arena): Promise<NdArray> {
  const pieces = cache.segments(0).flatMap((lane) =>
    lane[part].map(({ block, layout, from, rows }) => {
      const { rows: page } = block
      if (layout.kind !== 'dense' || !page) throw new GoldenError(`The ${part} of freqkv are not stored as exact rows.`)
      const dim = part === 'keys' ? cache.model.keyDim : cache.model.valueDim
      return arena.own(readRows(page, layout.store, dim, from, rows))
    }),
  )
  return fromTensor(arena.own(concat(pieces, 1)))
}

/** A model that rotates as the options say. */
function shapeOf(golden: GoldenCase, rows: Rows): ModelShape {
  const shape = modelOf(rows)
  const { keyDim, queryHeads, kvHeads } = shape
  const given = {
    headDim: numberOption(golden, 'headDim', keyDim),
    queryHeads: numberOption(golden, 'queryHeads', queryHeads),
    kvHeads: numberOption(golden, 'kvHeads', kvHeads),
  }
  if (given.headDim !== keyDim || given.queryHeads !== queryHeads || given.kvHeads !== kvHeads)
    throw new GoldenError(`The inputs of case ${golden.name} have other heads than its options say.`)
  const theta = numberOption(golden, 'ropeTheta')
  return {
    ...shape,
    rope: {
      dim: keyDim,
      frequencies: Float64Array.from({ length: keyDim / 2 }, (_, j) => theta ** ((-2 * j) / keyDim)),
      attentionFactor: 1,
    },
  }
}

/** The counts that `scalars` gives: exact. */
function compareCounts(golden: GoldenCase, counts: Readonly<Record<string, number>>): TensorResult[] {
  const array = (n: number): NdArray => ({ shape: [1], data: Int32Array.of(n) })
  return Object.entries(counts).flatMap(([name, count]) => {
    const expected = golden.scalars[name]
    return typeof expected === 'number' ? [compareArrays(name, array(count), array(expected), {})] : []
  })
}
