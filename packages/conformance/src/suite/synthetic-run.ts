/** Makes up a calibration run without a model. It offers what an engine offers, from a seed and small. */
import {
  type CalibrationRun,
  type HostTensor,
  type KVCompressor,
  type ModelShape,
  type Part,
  siteOf,
  stagesOn,
} from '@kvloom/core'
import { tensor2d, tidy } from '@tensorflow/tfjs-core'
import { rotate } from './reference'
import { seeded } from './shapes'

/** The width of the hidden states; the KV heads of `SHAPES` have fewer channels. */
const HIDDEN = 160
const SEQUENCES = [0, 1]
const TOKENS = 96
/** Sequences that stand for what compressed layers hand on. */
const SHIFTED = [4, 5]
const SENTENCES = [2, 3]
const SENTENCE_TOKENS = 12
const PROJECTIONS = { key: 'keys', value: 'values' } as const

/**
 * Makes calibration data for any model shape, the same at every call. Hidden states drift from token to token and change little from layer to
 * layer; rows are their products with weights of falling spectrum. So every kind of fit has something to find.
 */
export function syntheticRun(model: ModelShape): CalibrationRun {
  const states = new Map<string, Float32Array>()
  /** The hidden states `[tokens, HIDDEN]` before a layer. */
  const stateOf = (layer: number, sequence: number, tokens: number): Float32Array => {
    const name = `${layer} ${sequence} ${tokens}`
    const known = states.get(name)
    if (known) return known
    const made = nextState(layer > 0 ? stateOf(layer - 1, sequence, tokens) : null, tokens, seedOf(0, layer, sequence))
    states.set(name, made)
    return made
  }
  const rowsOf = (layer: number, part: Part, sequence: number, tokens: number): HostTensor =>
    projected(stateOf(layer, sequence, tokens), weightOf(model, layer, part), model.kvHeads, dimOf(model, part))
  const parts = (make: (part: Part) => readonly HostTensor[]) => ({ keys: make('keys'), values: make('values') })
  return {
    model,
    weights: {
      shape: model,
      names: () =>
        Array.from({ length: model.layers }, (_, layer) =>
          Object.keys(PROJECTIONS).map((name) => `layers.${layer}.attention.${name}`),
        ).flat(),
      get: async (name) => {
        const { layer, part } = projectionOf(model, name)
        return tensor2d(weightOf(model, layer, part), [model.kvHeads * dimOf(model, part), HIDDEN])
      },
    },
    rows: async (layer) => parts((part) => SEQUENCES.map((s) => rowsOf(layer, part, s, TOKENS))),
    // Rows of further sequences, as far from `rows` as what compressed layers hand on may be; what replaces the rows before is made and passed over.
    shifted: async (layer, replace) => {
      for (const s of layer > 0 ? SHIFTED : [])
        replace(layer - 1, {
          keys: rowsOf(layer - 1, 'keys', s, TOKENS),
          values: rowsOf(layer - 1, 'values', s, TOKENS),
        })
      return parts((part) => SHIFTED.map((s) => rowsOf(layer, part, s, TOKENS)))
    },
    gradients: async (layer) =>
      parts((part) => SEQUENCES.map((s) => squares(model, part, seedOf(3, layer, s) + (part === 'keys' ? 0 : 7)))),
    weightFisher: async (names, { ahead }) =>
      Object.fromEntries(
        names.map((name) => {
          const { layer, part } = projectionOf(model, name)
          const weight = weightOf(model, layer, part)
          const random = seeded(seedOf(5, layer, ahead) + (part === 'keys' ? 0 : 7))
          const size = part === 'keys' ? 1e-4 : 1e-3
          return [
            name,
            { shape: [weight.length / HIDDEN, HIDDEN], values: weight.map((w) => size * (w * random()) ** 2) },
          ]
        }),
      ),
    sentences: async () =>
      Array.from({ length: model.layers }, (_, layer) => ({
        keys: SENTENCES.map((s) => rotated(model, rowsOf(layer, 'keys', s, SENTENCE_TOKENS))),
        values: SENTENCES.map((s) => rowsOf(layer, 'values', s, SENTENCE_TOKENS)),
      })),
    hidden: async (candidate) => {
      const share = candidate ? sharedLayers(model, candidate) / model.layers : 0
      return SENTENCES.map((s) => {
        const noise = seeded(seedOf(4, 0, s))
        const values = stateOf(model.layers, s, SENTENCE_TOKENS).map((x) => x + share * (2 * noise() - 1))
        return { shape: [SENTENCE_TOKENS, HIDDEN], values }
      })
    },
  }
}

const dimOf = (model: ModelShape, part: Part): number => (part === 'keys' ? model.keyDim : model.valueDim)

/** Which projection a canonical name stands for. */
function projectionOf({ layers }: ModelShape, name: string): { readonly layer: number; readonly part: Part } {
  const [, layer, projection] = /^layers\.(\d+)\.attention\.(key|value)$/.exec(name) ?? []
  if (!layer || Number(layer) >= layers) throw new Error(`The synthetic run has no weight ${name}.`)
  return { layer: Number(layer), part: PROJECTIONS[projection as keyof typeof PROJECTIONS] }
}

const seedOf = (what: number, layer: number, sequence: number): number =>
  ((what * 31 + layer) * 31 + sequence) * 8191 + 1

/** Makes the hidden states of a layer from those of the layer before. In the first layer each token's follow from the token before. */
function nextState(before: Float32Array | null, tokens: number, seed: number): Float32Array {
  const random = seeded(seed)
  const states = new Float32Array(tokens * HIDDEN)
  for (let at = 0; at < states.length; at++) {
    const fresh = 2 * random() - 1
    const [kept, news] = before ? [before[at] ?? 0, 0.3] : [states[at - HIDDEN] ?? 0, 1]
    states[at] = 0.9 * kept + news * fresh
  }
  return states
}

/** Makes a weight `[kvHeads * dim, HIDDEN]` with columns of falling size. */
function weightOf(model: ModelShape, layer: number, part: Part): Float32Array {
  const random = seeded(seedOf(1, layer, part === 'keys' ? 0 : 1))
  return Float32Array.from({ length: model.kvHeads * dimOf(model, part) * HIDDEN }, (_, at) => {
    const column = at % HIDDEN
    return ((2 * random() - 1) * 0.97 ** column) / 4
  })
}

/** Multiplies states `[tokens, HIDDEN]` by a weight `[heads * dim, HIDDEN]` to rows `[heads, tokens, dim]`. */
function projected(states: Float32Array, weight: Float32Array, heads: number, dim: number): HostTensor {
  const tokens = states.length / HIDDEN
  const values = new Float32Array(heads * tokens * dim)
  for (let head = 0; head < heads; head++)
    for (let t = 0; t < tokens; t++)
      for (let c = 0; c < dim; c++) {
        const row = (head * dim + c) * HIDDEN
        let sum = 0
        for (let i = 0; i < HIDDEN; i++) sum += (weight[row + i] ?? 0) * (states[t * HIDDEN + i] ?? 0)
        values[(head * tokens + t) * dim + c] = sum
      }
  return { shape: [heads, tokens, dim], values }
}

/** Makes squared gradients: positive numbers whose size differs from token to token. */
function squares(model: ModelShape, part: Part, seed: number): HostTensor {
  const random = seeded(seed)
  const dim = dimOf(model, part)
  const values = new Float32Array(model.kvHeads * TOKENS * dim)
  let size = 1
  for (let at = 0; at < values.length; at++) {
    if (at % dim === 0) size = 10 ** (-2 * random())
    values[at] = (size * (2 * random() - 1)) ** 2
  }
  return { shape: [model.kvHeads, TOKENS, dim], values }
}

function rotated(model: ModelShape, { shape, values }: HostTensor): HostTensor {
  const [, tokens = 0, dim = 0] = shape
  const out = new Float32Array(values.length)
  for (let at = 0; at < values.length; at += dim)
    out.set(rotate(values.subarray(at, at + dim), (at / dim) % tokens, model), at)
  return { shape, values: out }
}

/** Layers that read an earlier one's rows. */
function sharedLayers(model: ModelShape, candidate: KVCompressor): number {
  const stages = stagesOn(candidate, 'model', 0)
  let shared = 0
  // Frees the tables that a stage asks for.
  tidy(() => {
    const bound = stages.map((stage) => stage.bind(siteOf(model, 0, 'keys')))
    for (let layer = 0; layer < model.layers; layer++)
      if (bound.reduce((l, stage) => stage.sourceLayer?.(l) ?? l, layer) !== layer) shared++
  })
  return shared
}
