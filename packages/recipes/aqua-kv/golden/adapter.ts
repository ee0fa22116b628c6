/** Cases made by the authors' AQUA-KV: predictors fitted layer by layer, applied layer by layer, and the zones of its cache. */

import {
  type Artifact,
  type HostTensor,
  type ModelShape,
  NOTHING_ASKED,
  type Part,
  type Predictor,
  type Quantizer,
  type Stage,
  stagesOn,
} from '@kvloom/core'
import {
  type Arena,
  type CaseAdapter,
  compareArrays,
  compareCodes,
  compareScalar,
  fromTensor,
  type GoldenCase,
  GoldenError,
  hostOf,
  type NdArray,
  numberOption,
  type Outcome,
  oneHead,
  relativeSquareError,
  siteIn,
  type TensorResult,
  throughCodebook,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { higgsQuantizer } from '@kvloom/higgs'
import type { CodebookRows } from '@kvloom/kernels'
import { linearPredictor } from '@kvloom/linear-predictor'
import { add, sub, type Tensor } from '@tensorflow/tfjs-core'
import { zones } from './zones'

/** AQUA-KV against its authors' data. */
export const adapter: CaseAdapter = { method: 'aquakv', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  if (golden.has('calib_k0')) return withParts(golden, 'calib', fitAll)
  if (golden.has('eval_k0')) return withParts(golden, 'eval', applyAll)
  if (golden.options['appends'] !== undefined) return zones(golden)
  return null
}

/** Predictions of two fits of the same data: f32 pseudo-inverse against f64 solve, and a few codes that flip upstream (the data's note). */
const PREDICTION_TOLERANCE = 1e-4
/** The data's notes: errors of the calibration tokens within 1 %. */
const FIT_ERROR_TOLERANCE = 0.01
/** The data's README: independent implementations agree to about 0.1 %. */
const APPLY_ERROR_TOLERANCE = 1e-3

const PARTS: readonly (readonly [letter: 'k' | 'v', part: Part])[] = [
  ['k', 'keys'],
  ['v', 'values'],
]
const LETTERS: Readonly<Record<Part, 'k' | 'v'>> = { keys: 'k', values: 'v' }

/** What both kinds of case work with. */
interface Bench {
  readonly golden: GoldenCase
  readonly arena: Arena
  readonly model: ModelShape
  /** Rows `[tokens, channels]` by `k0`, `v0`, `k1` … */
  readonly rows: Readonly<Record<string, NdArray>>
  readonly layers: number
  readonly group: number
  quantizer(layer: number): HiggsOfLayer
  /** The predictor of a layer and part with the weights of the case. */
  given(layer: number, part: Part): Promise<Predictor>
  stage(layer: number, part: Part): Stage<'predict'>
}

interface HiggsOfLayer {
  readonly quantizer: Quantizer<CodebookRows>
  readonly entries: number
  readonly vector: number
  readonly bitsPerValue: number
}

async function withParts(
  golden: GoldenCase,
  prefix: 'calib' | 'eval',
  work: (bench: Bench) => Promise<TensorResult[]>,
): Promise<Outcome | null> {
  const rows: Record<string, NdArray> = {}
  let layers = 0
  for (; golden.has(`${prefix}_k${layers}`); layers++)
    for (const [letter] of PARTS) rows[`${letter}${layers}`] = await golden.input(`${prefix}_${letter}${layers}`)
  const model = oneHead(rows['k0']?.shape[1] ?? 0, layers)
  const group = numberOption(golden, 'groupsize')
  // Weights as the file gives them, every token of it in the fit.
  const compressor = linearPredictor({ weights: 'f32', drop: 0, damping: numberOption(golden, 'damping', 1e-3) })
  const grids = { first: await gridOf(golden, firstLayer(golden)), other: await gridOf(golden, golden.options) }
  return withArena(async (arena) => {
    const stage = (layer: number, part: Part): Stage<'predict'> => {
      const [found] = stagesOn(compressor, 'predict', layer, part)
      if (!found) throw new GoldenError(`${compressor.card.name} does not predict the ${part} of layer ${layer}.`)
      return found
    }
    const tensors = await work({
      golden,
      arena,
      model,
      rows,
      layers,
      group,
      stage,
      quantizer: (layer) => quantizerOf(layer === 0 ? grids.first : grids.other, group, arena, model),
      async given(layer, part) {
        const [weight, bias] = [await weights(golden, layer, part, 'W'), await weights(golden, layer, part, 'b')]
        return stage(layer, part).bind(siteIn(arena, model, layer, part), artifactOf(layer, part, { weight, bias }))
      },
    })
    return { tensors }
  })
}

/**
 * Fits every predictor on reconstructions, and compares what it predicts with what the weights of the case predict. Each layer's
 * reconstructions are made with the weights of the case, so that the next fit has the inputs that the authors' fit had: a code
 * near a tie that flips would change them.
 */
async function fitAll(bench: Bench): Promise<TensorResult[]> {
  const { golden, arena, model, rows, layers } = bench
  const results: TensorResult[] = []
  const compared = new Set<string>()
  const rebuilt: Record<string, NdArray> = {}
  for (let layer = 0; layer < layers; layer++)
    for (const [letter, part] of PARTS) {
      const name = `${letter}${layer}`
      const target = rowsOf(rows, name)
      if (layer === 0) {
        rebuilt[name] = (await encode(bench, layer, target)).recon
        continue
      }
      const theirs = await bench.given(layer, part)
      const sources = sourcesOf(theirs, layer, rebuilt)
      const stage = bench.stage(layer, part)
      if (stage.fit?.scope !== 'layer') throw new GoldenError(`${stage.id} is not fitted layer by layer.`)
      const [, dim = 0] = target.shape
      const { tensors } = await stage.fit.run(
        {
          layer,
          part,
          model,
          heads: 1,
          dim,
          target: [{ ...hostOf(target), shape: [1, ...target.shape] }],
          sources: sources.map((source) => [hostOf(source)]),
        },
        NOTHING_ASKED,
      )
      const ours = stage.bind(siteIn(arena, model, layer, part), artifactOf(layer, part, tensors))
      const [prediction, expected] = [await predict(ours, sources, arena), await predict(theirs, sources, arena)]
      for (const tensor of [`W${name}`, `b${name}`]) {
        compared.add(tensor)
        const error = relativeSquareError(expected, prediction)
        results.push(bounded(tensor, error, PREDICTION_TOLERANCE, 'predictions, relative squared difference'))
      }
      rebuilt[name] = await rebuild(bench, layer, target, expected)
      results.push(
        ...scalars(golden, FIT_ERROR_TOLERANCE, {
          [`${name}_calib_relMSE`]: relativeSquareError(target, prediction),
          [`${name}_calib_final_relMSE`]: relativeSquareError(target, await rebuild(bench, layer, target, prediction)),
        }),
      )
    }
  for (const name of golden.expects) if (!compared.has(name)) results.push(wrong(name, 'no result for this name'))
  return results
}

/** Each layer and part on its own, from the reconstructions of the file. */
async function applyAll(bench: Bench): Promise<TensorResult[]> {
  const { golden, arena, rows, layers, group } = bench
  const results: TensorResult[] = []
  const known = new Set<string>()
  const rebuilt: Record<string, NdArray> = {}
  let bits = 0
  for (let layer = 0; layer < layers; layer++)
    for (const [letter, part] of PARTS) {
      const name = `${letter}${layer}`
      for (const what of ['pred', 'idx', 'scale', 'rec', 'ambiguous']) known.add(`${name}_${what}`)
      const target = rowsOf(rows, name)
      rebuilt[name] = await golden.expected(`${name}_rec`)
      const predictor = layer === 0 ? null : await bench.given(layer, part)
      const prediction = predictor && (await predict(predictor, sourcesOf(predictor, layer, rebuilt), arena))
      if (prediction)
        results.push(
          compareArrays(
            `${name}_pred`,
            prediction,
            await golden.expected(`${name}_pred`),
            golden.tolerance(`${name}_pred`),
          ),
        )
      const residual = prediction ? await combine(sub, target, prediction, arena) : target
      const coded = await encode(bench, layer, residual)
      const recon = prediction ? await combine(add, coded.recon, prediction, arena) : coded.recon
      const names = {
        idx: `${name}_idx`,
        scale: `${name}_scale`,
        recon: [`${name}_rec`],
        ambiguous: `${name}_ambiguous`,
      }
      results.push(...(await compareCodes(golden, { ...coded, recon }, group, names)))
      bits += coded.bitsPerValue / layers / 2
      if (!prediction) continue
      const plain = await encode(bench, layer, target)
      results.push(
        ...scalars(golden, APPLY_ERROR_TOLERANCE, {
          [`${name}_pred_relMSE`]: relativeSquareError(target, prediction),
          [`${name}_final_relMSE`]: relativeSquareError(target, recon),
          [`${name}_plainHiggs_relMSE`]: relativeSquareError(target, plain.recon),
          [`${name}_residual_quant_relMSE`]: relativeSquareError(residual, coded.recon),
        }),
      )
    }
  for (const name of golden.expects) if (!known.has(name)) results.push(wrong(name, 'no result for this name'))
  // f32 of a sum of a few fractions.
  return [...results, ...scalars(golden, 1e-6, { bitsPerValue_body: bits })]
}

function scalars(golden: GoldenCase, rel: number, values: Readonly<Record<string, number>>): TensorResult[] {
  return Object.entries(values)
    .filter(([name]) => name in golden.scalars)
    .map(([name, value]) => compareScalar(golden, name, value, rel))
}

const bounded = (name: string, error: number, tolerance: number, where: string): TensorResult => ({
  name,
  error,
  tolerance,
  where,
  passed: error <= tolerance,
})

/** Codes and reconstruction of rows `[tokens, channels]` of a layer. */
async function encode({ arena, quantizer, group }: Bench, layer: number, rows: NdArray) {
  const { quantizer: higgs, entries, vector, bitsPerValue } = quantizer(layer)
  return { ...(await throughCodebook(higgs, rows, { group, entries, vector, metadata: 'f32' }, arena)), bitsPerValue }
}

async function rebuild(bench: Bench, layer: number, target: NdArray, prediction: NdArray): Promise<NdArray> {
  const residual = await combine(sub, target, prediction, bench.arena)
  return combine(add, (await encode(bench, layer, residual)).recon, prediction, bench.arena)
}

const combine = async (op: (a: Tensor, b: Tensor) => Tensor, a: NdArray, b: NdArray, arena: Arena): Promise<NdArray> =>
  fromTensor(arena.own(op(arena.own(toTensor(a)), arena.own(toTensor(b)))))

const predict = async (predictor: Predictor, sources: readonly NdArray[], arena: Arena): Promise<NdArray> =>
  fromTensor(arena.own(predictor.predict(sources.map((source) => arena.own(toTensor(source))))))

/** The reconstructions that a predictor asks for. */
const sourcesOf = (predictor: Predictor, layer: number, rebuilt: Readonly<Record<string, NdArray>>): NdArray[] =>
  predictor.sources.map(({ back, part }) => rowsOf(rebuilt, `${LETTERS[part]}${layer - back}`))

function rowsOf(rows: Readonly<Record<string, NdArray>>, name: string): NdArray {
  const found = rows[name]
  if (!found) throw new GoldenError(`There are no rows ${name} yet.`)
  return found
}

/** `W` `[c, inputs]` and `b` `[c]`: inputs of an apply case, expected by a fit case. */
async function weights(golden: GoldenCase, layer: number, part: Part, letter: 'W' | 'b'): Promise<HostTensor> {
  const name = `${letter}${LETTERS[part]}${layer}`
  return hostOf(golden.has(name) ? await golden.input(name) : await golden.expected(name))
}

const artifactOf = (layer: number, part: Part, tensors: Readonly<Record<string, HostTensor>>): Artifact => ({
  stage: 'linear-predictor',
  fingerprint: 'golden',
  json: null,
  tensors: Object.fromEntries(Object.entries(tensors).map(([name, t]) => [`${layer}.${part}.${name}`, t])),
})

function firstLayer({ options, name }: GoldenCase): Readonly<Record<string, unknown>> {
  const first = options['firstLayer']
  if (typeof first !== 'object' || first === null)
    throw new GoldenError(`Case ${name} does not say how the first layer is quantized.`)
  return first as Readonly<Record<string, unknown>>
}

/** A grid of the authors, which stands in the folder of HIGGS beside this one. */
async function gridOf(golden: GoldenCase, { dim, n }: Readonly<Record<string, unknown>>): Promise<HostTensor> {
  return hostOf(await golden.load(`../higgs/grids.safetensors:eden${dim}_${n}`))
}

/** Norms as the authors' code holds them, f32; bits as they are counted, with f16. */
function quantizerOf(table: HostTensor, group: number, arena: Arena, model: ModelShape): HiggsOfLayer {
  const [entries = 0, vector = 0] = table.shape
  const site = siteIn(arena, model)
  return {
    quantizer: higgsQuantizer({ table, group, metadata: 'f32' }, site),
    entries,
    vector,
    bitsPerValue: higgsQuantizer({ table, group, metadata: 'f16' }, site).theoreticalBitsPerValue,
  }
}
