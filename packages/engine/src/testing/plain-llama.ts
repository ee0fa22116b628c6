// A witness for tests: the forward pass once more, in plain float64 loops over arrays, written from the models' papers and configs and
// sharing no code with the engine. Whole prompt at once, no cache.
import type { Activation } from '../models/activations'
import type { ModelConfig } from '../models/config'

type Rows = Float64Array[]
type Weights = ReadonlyMap<string, Float32Array>

/** Logits `[n][vocab]`, final hidden states `[n][hidden]`, and per layer keys before and after RoPE and values, `[kvHeads * n][dim]` head by head. */
export interface PlainResult {
  readonly logits: Rows
  readonly hidden: Rows
  readonly keysBeforeRope: readonly Rows[]
  readonly keys: readonly Rows[]
  readonly values: readonly Rows[]
  /** Per layer `[n][hidden]`: after attention was added, and behind the MLP. */
  readonly middles: readonly Rows[]
  readonly outputs: readonly Rows[]
}

/** What a test may change. */
export interface PlainChanges {
  /** Changes the rows of a layer in place, keys before RoPE. */
  readonly rows?: (layer: number, part: 'keys' | 'values', rows: Rows) => void
  /** Layer to the earlier layer whose keys and values it reads. */
  readonly sources?: Readonly<Record<number, number>>
}

export function plainLlama(
  config: ModelConfig,
  weights: Weights,
  ids: readonly number[],
  changes: PlainChanges = {},
): PlainResult {
  const { hiddenSize, queryHeads, kvHeads, keyDim, valueDim, rmsEpsilon } = config
  const weight = (name: string): Float32Array => {
    const found = weights.get(name)
    if (!found) throw new Error(`no ${name}`)
    return found
  }
  const linear = (rows: Rows, name: string): Rows => {
    const w = weight(name)
    const bias = weights.get(`${name}.bias`)
    return rows.map((x) => {
      const y = new Float64Array(w.length / x.length)
      for (let o = 0; o < y.length; o++) {
        let sum = bias ? bias[o]! : 0
        for (let i = 0; i < x.length; i++) sum += w[o * x.length + i]! * x[i]!
        y[o] = sum
      }
      return y
    })
  }
  const norm = (x: Float64Array, w: Float32Array): Float64Array => {
    const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + rmsEpsilon)
    return x.map((v, i) => v * scale * w[i]!)
  }
  const heads = (rows: Rows, count: number, normName: string): Rows => {
    const dim = rows[0]!.length / count
    const w = weights.get(normName)
    const all: Rows = []
    for (let h = 0; h < count; h++)
      for (const row of rows) {
        const head = row.slice(h * dim, (h + 1) * dim)
        all.push(w ? norm(head, w) : head)
      }
    return all
  }
  const n = ids.length
  const logitScale = config.attentionScale ?? 1 / Math.sqrt(keyDim)
  const angles = plainFrequencies(config)
  const rotate = (rows: Rows): Rows =>
    rows.map((x, index) => {
      const y = x.slice()
      const half = angles.frequencies.length
      for (let j = 0; j < half; j++) {
        const angle = (index % n) * angles.frequencies[j]!
        const [c, s] = [Math.cos(angle) * angles.factor, Math.sin(angle) * angles.factor]
        y[j] = x[j]! * c - x[j + half]! * s
        y[j + half] = x[j + half]! * c + x[j]! * s
      }
      return y
    })

  let x: Rows = ids.map((id) => Float64Array.from(weight('embedding').subarray(id * hiddenSize, (id + 1) * hiddenSize)))
  const allKeys: Rows[] = []
  const allKeysBeforeRope: Rows[] = []
  const allValues: Rows[] = []
  const middles: Rows[] = []
  const outputs: Rows[] = []
  for (let l = 0; l < config.layers; l++) {
    const layer = `layers.${l}`
    const normed = x.map((row) => norm(row, weight(`${layer}.attentionNorm`)))
    const q = rotate(heads(linear(normed, `${layer}.attention.query`), queryHeads, `${layer}.attention.queryNorm`))
    const ownKeys = heads(linear(normed, `${layer}.attention.key`), kvHeads, `${layer}.attention.keyNorm`)
    const ownValues = heads(linear(normed, `${layer}.attention.value`), kvHeads, '')
    changes.rows?.(l, 'keys', ownKeys)
    changes.rows?.(l, 'values', ownValues)
    allKeysBeforeRope.push(ownKeys)
    allKeys.push(rotate(ownKeys))
    allValues.push(ownValues)
    const source = changes.sources?.[l] ?? l
    const k = allKeys[source]!
    const v = allValues[source]!
    const attended: Rows = ids.map(() => new Float64Array(queryHeads * valueDim))
    for (let h = 0; h < queryHeads; h++) {
      const shared = Math.floor(h / (queryHeads / kvHeads)) * n
      for (let t = 0; t < n; t++) {
        const scores = Array.from({ length: t + 1 }, (_, s) => dot(q[h * n + t]!, k[shared + s]!) * logitScale)
        const top = Math.max(...scores)
        const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0)
        scores.forEach((s, at) => {
          const p = Math.exp(s - top) / total
          for (let d = 0; d < valueDim; d++) attended[t]![h * valueDim + d]! += p * v[shared + at]![d]!
        })
      }
    }
    x = plus(x, linear(attended, `${layer}.attention.output`))
    middles.push(x)
    const inner = x.map((row) => norm(row, weight(`${layer}.mlpNorm`)))
    const gate = linear(inner, `${layer}.mlp.gate`)
    const up = linear(inner, `${layer}.mlp.up`)
    const product = gate.map((row, t) => row.map((g, i) => activate(config.activation, g) * up[t]![i]!))
    x = plus(x, linear(product, `${layer}.mlp.down`))
    outputs.push(x)
  }
  const last = x.map((row) => norm(row, weight('finalNorm')))
  const logits = linear(last, config.tiedEmbeddings ? 'embedding' : 'output')
  return { logits, hidden: last, keysBeforeRope: allKeysBeforeRope, keys: allKeys, values: allValues, middles, outputs }
}

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, v, i) => sum + v * b[i]!, 0)
const plus = (a: Rows, b: Rows): Rows => a.map((row, t) => row.map((v, i) => v + b[t]![i]!))

/** The activation of the gate. */
function activate(activation: Activation, g: number): number {
  switch (activation) {
    case 'silu':
      return g / (1 + Math.exp(-g))
    case 'quick-gelu':
      return g / (1 + Math.exp(-1.702 * g))
    case 'gelu-tanh':
      return 0.5 * g * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3)))
    case 'gelu':
      return 0.5 * g * (1 + errorFunction(g / Math.SQRT2))
    case 'relu':
      return Math.max(g, 0)
    case 'relu2':
      return Math.max(g, 0) ** 2
  }
}

/** erf(x) = 2 / √π · exp(-x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1 · 3 · … · (2n + 1)), whose terms have one sign. */
function errorFunction(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x) // 1 - |erf| is below float64 there
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

/** Frequencies without any rounding. */
function plainFrequencies({ rope }: ModelConfig): { frequencies: number[]; factor: number } {
  const { dim, theta, scaling } = rope
  const frequencies = Array.from({ length: dim / 2 }, (_, j) => theta ** ((-2 * j) / dim))
  switch (scaling.kind) {
    case 'none':
      return { frequencies, factor: 1 }
    case 'linear':
      return { frequencies: frequencies.map((f) => f / scaling.factor), factor: 1 }
    case 'frequencies':
      return { frequencies: [...scaling.frequencies], factor: scaling.attentionFactor }
    case 'factors':
      return { frequencies: frequencies.map((f, j) => f / scaling.factors[j]!), factor: 1 }
    case 'llama3': {
      const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalContextLength: context } = scaling
      const blended = frequencies.map((f) => {
        const turns = (context * f) / (2 * Math.PI)
        const share = Math.min(1, Math.max(0, (turns - low) / (high - low)))
        return (1 - share) * (f / factor) + share * f
      })
      return { frequencies: blended, factor: 1 }
    }
    case 'yarn': {
      const { factor, originalContextLength: context, betaFast, betaSlow, truncate = true } = scaling
      const pair = (turns: number) => (dim * Math.log(context / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
      const [first, last] = [pair(betaFast), pair(betaSlow)]
      const [from, to] = [
        Math.max(0, truncate ? Math.floor(first) : first),
        Math.min(dim - 1, truncate ? Math.ceil(last) : last),
      ]
      const mixed = frequencies.map((f, j) => {
        const ramp = Math.min(1, Math.max(0, (j - from) / (to - from)))
        return (f / factor) * ramp + f * (1 - ramp)
      })
      return { frequencies: mixed, factor: scaling.attentionFactor ?? 0.1 * Math.log(Math.max(factor, 1)) + 1 }
    }
  }
}
