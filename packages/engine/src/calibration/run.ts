// What a model offers to calibration: rows, squared gradients, Fisher information of weights, hidden states.
import {
  type CalibrationRun,
  ContextOverflow,
  type FisherWish,
  type HostTensor,
  type KVCompressor,
  OptionError,
  openCache,
  type Part,
  type Ready,
  ready,
} from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { useBackend } from '../backend'
import { afterAttention, attentionInputs, embed, mlp } from '../llama'
import type { Model } from '../model'
import { attendToItself, exactRows } from './attention'
import { hostTensor, type SquaredGradients, squaredGradients } from './gradients'
import { type Replace, ShiftedRows } from './shifted'
import { weightFisher } from './weight-fisher'

/** What a calibration reports. */
export type CalibrationProgress =
  /** The driver fits a stage. */
  | {
      readonly doing: 'fit'
      readonly layer: number
      readonly layers: number
      readonly stage: string
      readonly part: Part | null
    }
  /** The model computes rows of a layer, gradients, or hidden states of sentences; `done` of `total` pieces of work. */
  | { readonly doing: 'rows' | 'gradients' | 'hidden'; readonly done: number; readonly total: number }

/** Options of `calibrationRun`. */
export interface CalibrationRunOptions {
  /** Token ids of each calibration sequence; each is run alone, at most the model's context long. */
  readonly sequences: readonly Int32Array[]
  /** Token ids of short sentences, for stages that try candidates on whole forward passes. Default none. */
  readonly sentences?: readonly Int32Array[]
  /** Aborts between two pieces of work with the signal's reason. */
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: CalibrationProgress) => void
}

/**
 * Prepares calibration on a model; nothing is computed before it is asked for.
 * Rows go through the model layer by layer, hidden states of all sequences in host memory (tokens · hidden · 4 bytes); a layer may
 * be asked for again, and an earlier one begins at the first layer anew, for gradients too. Gradients are computed at the first ask for all layers (layers · tokens · kvHeads ·
 * (keyDim + valueDim) · 4 bytes in host memory, given back as layers are asked for), in about the time of six forward passes; so are those
 * of weights, at every ask, and 4 bytes a number of these are held.
 * @param model borrowed; stays loaded while the run is in use
 * @throws OptionError for sequences that are empty or hold ids outside the vocabulary; ContextOverflow
 */
export function calibrationRun(model: Model, options: CalibrationRunOptions): CalibrationRun {
  const { sequences, sentences = [], onProgress } = options
  check(model, 'sequences', sequences)
  check(model, 'sentences', sentences)
  const rows = new RowsByLayer(model, options)
  const shifted = new ShiftedRows(model, options)
  const gradients = new GradientsByLayer(model, options)
  const turns = new Turns()
  const run = {
    model: model.shape,
    weights: model.weights,
    rows: (layer: number) => turns.take(() => rows.at(layer)),
    shifted: (layer: number, replace: Replace) => turns.take(() => shifted.at(layer, replace)),
    gradients: (layer: number) => turns.take(() => gradients.at(layer)),
    weightFisher: (weights: readonly string[], wish: FisherWish) =>
      turns.take(() => weightFisher(model, options, weights, wish)),
    hidden: (candidate: KVCompressor | null) => turns.take(() => finalHidden(model, options, candidate)),
    sentences: () => turns.take(() => sentenceRows(model, sentences)),
  }
  return onProgress ? { ...run, progress: (done) => onProgress({ doing: 'fit', ...done }) } : run
}

/** One piece of work at a time: they share a backend, and rows share their place in the model. */
class Turns {
  private last: Promise<unknown> = Promise.resolve()

  take<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.last.then(work, work)
    this.last = mine.catch(() => {})
    return mine
  }
}

type Rows = Readonly<Record<Part, readonly HostTensor[]>>

/** Keys before RoPE and values, in ascending layers. */
class RowsByLayer {
  /** Per sequence, what layer `next` is given. */
  private hidden: HostTensor[] | null = null
  private next = 0
  private latest: Rows = { keys: [], values: [] }

  constructor(
    private readonly model: Model,
    private readonly options: CalibrationRunOptions,
  ) {}

  async at(layer: number): Promise<Rows> {
    const { model, options } = this
    const { layers } = model.shape
    if (!Number.isInteger(layer) || layer < 0 || layer >= layers)
      throw new OptionError('rows', 'layer', layer, `a whole number from 0 to ${layers - 1}`)
    // A fit of the whole model has seen all layers before the fits of single layers begin.
    if (layer < this.next - 1) {
      this.hidden = null
      this.next = 0
    }
    await useBackend(model.backend)
    this.hidden ??= await Promise.all(
      options.sequences.map(async (ids) => {
        const rows = embed(model.packed, ids)
        const host = await hostTensor(rows)
        rows.dispose()
        return host
      }),
    )
    while (this.next <= layer) {
      const keep = this.next === layer
      this.latest = await this.pass(this.hidden, keep)
      this.next++
    }
    return this.latest
  }

  /** Takes every sequence through layer `next`; its rows, where they are wanted. */
  private async pass(hidden: HostTensor[], keep: boolean): Promise<Rows> {
    const { config, packed, shape } = this.model
    const { onProgress, signal } = this.options
    const layer = packed.layers[this.next]
    const rows: Record<Part, HostTensor[]> = { keys: [], values: [] }
    if (!layer) return rows
    // A pass that is cut short leaves the hidden states of before it.
    const after: HostTensor[] = []
    for (const [sequence, host] of hidden.entries()) {
      signal?.throwIfAborted()
      const input = tf.tensor(host.values, [...host.shape])
      const now = attentionInputs(config, layer, input)
      try {
        if (keep) {
          rows.keys.push(await hostTensor(now.keys))
          rows.values.push(await hostTensor(now.values))
        }
        if (this.next + 1 < shape.layers) {
          const attended = await attendToItself(shape, now)
          const output = tf.tidy(() => mlp(config, layer, afterAttention(layer, input, attended)))
          attended.dispose()
          after.push(await hostTensor(output))
          output.dispose()
        }
      } finally {
        tf.dispose([input, now])
      }
      const total = shape.layers * hidden.length
      onProgress?.({ doing: 'rows', done: this.next * hidden.length + sequence + 1, total })
    }
    hidden.splice(0, hidden.length, ...after)
    return rows
  }
}

/** Squared gradients of all layers, computed at the first ask. */
class GradientsByLayer {
  private sequences: SquaredGradients[][] | null = null
  private latest = 0

  constructor(
    private readonly model: Model,
    private readonly options: CalibrationRunOptions,
  ) {}

  async at(layer: number): Promise<Rows> {
    const { layers } = this.model.shape
    if (!Number.isInteger(layer) || layer < 0 || layer >= layers)
      throw new OptionError('gradients', 'layer', layer, `a whole number from 0 to ${layers - 1}`)
    // What was given back is computed again.
    if (layer < this.latest) {
      this.sequences = null
      this.latest = 0
    }
    this.sequences ??= await this.compute()
    for (const each of this.sequences) each.fill({ keys: NONE, values: NONE }, this.latest, layer)
    this.latest = layer
    const of = (part: Part) => (this.sequences ?? []).map((each) => each[layer]?.[part] ?? NONE)
    return { keys: of('keys'), values: of('values') }
  }

  private async compute(): Promise<SquaredGradients[][]> {
    const { model } = this
    const { sequences, signal, onProgress } = this.options
    await useBackend(model.backend)
    const total = sequences.length * model.shape.layers * 2
    let done = 0
    const all: SquaredGradients[][] = []
    for (const ids of sequences)
      all.push(
        await squaredGradients(model, ids, () => {
          signal?.throwIfAborted()
          onProgress?.({ doing: 'gradients', done: ++done, total })
        }),
      )
    return all
  }
}

const NONE: HostTensor = { shape: [0], values: new Float32Array() }

/** Hidden states after the final norm of every sentence, run whole through a candidate. */
async function finalHidden(
  model: Model,
  { sentences = [], signal, onProgress }: CalibrationRunOptions,
  candidate: KVCompressor | null,
): Promise<readonly HostTensor[]> {
  const opened: Ready = candidate ? ready(candidate) : exactRows()
  const all: HostTensor[] = []
  for (const ids of sentences) {
    signal?.throwIfAborted()
    const cache = openCache(model.shape, opened)
    try {
      const hidden = await model.forward(cache, ids, 'promptEnd', { logits: 'hidden' })
      if (hidden) all.push(await hostTensor(hidden))
      hidden?.dispose()
    } finally {
      cache.dispose()
    }
    onProgress?.({ doing: 'hidden', done: all.length, total: sentences.length })
  }
  return all
}

/** Keys after RoPE and values of every sentence: per layer, what an uncompressed cache stores. */
async function sentenceRows(model: Model, sentences: readonly Int32Array[]): Promise<readonly Rows[]> {
  const layers = Array.from({ length: model.shape.layers }, () => ({
    keys: [] as HostTensor[],
    values: [] as HostTensor[],
  }))
  for (const ids of sentences) {
    const cache = openCache(model.shape, exactRows())
    try {
      await model.forward(cache, ids, 'promptEnd', { logits: 'none' })
      for (const [number, rows] of layers.entries()) {
        const { keys, values } = await cache.materialize(number)
        rows.keys.push(await hostTensor(keys))
        rows.values.push(await hostTensor(values))
        tf.dispose([keys, values])
      }
    } finally {
      cache.dispose()
    }
  }
  return layers
}

function check({ config, shape }: Model, option: string, texts: readonly Int32Array[]): void {
  for (const ids of texts) {
    if (!(ids instanceof Int32Array))
      throw new OptionError('calibrationRun', option, ids, 'token ids as Int32Array', 'Encode texts first.')
    if (ids.length < 2) throw new OptionError('calibrationRun', option, [...ids], 'at least two tokens each')
    if (ids.length > shape.contextLength) throw new ContextOverflow(ids.length, shape.contextLength)
    const wrong = ids.find((id) => id < 0 || id >= config.vocabSize)
    if (wrong !== undefined)
      throw new OptionError('calibrationRun', option, wrong, `token ids from 0 to ${config.vocabSize - 1}`)
  }
}
