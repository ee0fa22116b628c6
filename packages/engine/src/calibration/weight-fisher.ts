// The diagonal of the empirical Fisher information of weights: squared gradients of a text's loss, averaged over the texts. It is
// the one backward pass of gradients/, once a text for all weights that are asked for.
import { type FisherWish, type HostTensor, OptionError } from '@kvloom/core'
import { useBackend } from '../backend'
import { floats } from '../gradients/sequence'
import type { Model } from '../model'
import { PARTS } from '../trained-weights'
import { lossGradients } from './gradients'

/** What a pass uses of the options of a calibration run. */
interface PassOptions {
  readonly sequences: readonly Int32Array[]
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: {
    readonly doing: 'gradients'
    readonly done: number
    readonly total: number
  }) => void
}

/** What is summed up of a weight. */
interface Sum {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

/**
 * Mean over texts of n tokens of (∂/∂w of 1 / (n - ahead) · Σ -log p(ids[t + ahead] | ids[0 … t]))², per weight and in its own shape.
 * Host memory: as many numbers as the weights have, besides what the layers leave of one text.
 * @param weights canonical names of weights of layers
 * @throws OptionError for other names, and for texts that are too short to predict anything
 */
export async function weightFisher(
  model: Model,
  { sequences, signal, onProgress }: PassOptions,
  weights: readonly string[],
  wish: FisherWish,
): Promise<Readonly<Record<string, HostTensor>>> {
  const parts = partsByLayer(model, weights)
  const { ahead } = wish
  const texts = textsOf(sequences, wish)
  if (parts.size === 0) return {}
  await useBackend(model.backend)
  const lowest = Math.min(...parts.keys())
  const total = texts.length * (2 * model.shape.layers - lowest)
  let done = 0
  const step = (): void => {
    signal?.throwIfAborted()
    onProgress?.({ doing: 'gradients', done: ++done, total })
  }
  const attended = [...parts.values()].some((of) => of.has('attention.output'))
  const sums = new Map<string, Sum>()
  for (const ids of texts) {
    const share = 1 / (ids.length - ahead)
    const add = (name: string, shape: readonly number[], gradient: Float32Array): void => {
      const sum = sums.get(name) ?? { shape, values: new Float32Array(gradient.length) }
      sums.set(name, sum)
      gradient.forEach((g, i) => {
        sum.values[i] = (sum.values[i] ?? 0) + (g * share) ** 2 / texts.length
      })
    }
    await lossGradients(model, ids, { ahead, attended }, step, {
      wanted: (layer) => ({ weights: parts.get(layer) ?? NONE, input: layer > lowest, at: 'output' }),
      pick: ({ weights: gradients }) => gradients,
      visit: async (layer, gradients) => {
        for (const [part, gradient] of Object.entries(gradients))
          add(`layers.${layer}.${part}`, gradient.shape, await floats(gradient))
        step()
      },
    })
  }
  return Object.fromEntries(sums)
}

const NONE: ReadonlySet<string> = new Set()

/** Names taken apart: parts as in `attention.key` by layer. */
function partsByLayer(model: Model, weights: readonly string[]): Map<number, Set<string>> {
  const has = new Set(model.weights.names())
  const parts = new Map<number, Set<string>>()
  for (const name of weights) {
    const [, layer, part = ''] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? []
    if (layer === undefined || !has.has(name) || !PARTS.includes(part.replace(/\.bias$/, '')))
      throw new OptionError('weightFisher', 'weights', name, 'names of weights of layers that the model has')
    const known = parts.get(Number(layer)) ?? new Set()
    parts.set(Number(layer), known.add(part))
  }
  return parts
}

/** Calibration sequences, cut where they are longer than is asked. */
function textsOf(sequences: readonly Int32Array[], { ahead, tokens }: FisherWish): readonly Int32Array[] {
  if (!Number.isInteger(ahead) || ahead < 1)
    throw new OptionError('weightFisher', 'ahead', ahead, 'a whole number from 1')
  if (tokens !== undefined && (!Number.isInteger(tokens) || tokens <= ahead))
    throw new OptionError('weightFisher', 'tokens', tokens, `a whole number above ${ahead}`)
  if (sequences.length === 0) throw new OptionError('calibrationRun', 'sequences', [], 'one sequence at least')
  const short = sequences.find((ids) => ids.length <= ahead)
  if (short)
    throw new OptionError(
      'calibrationRun',
      'sequences',
      [...short],
      `more than ${ahead} tokens each, so that there is something to predict ${ahead} ahead`,
    )
  return sequences.flatMap((ids) => {
    const long = tokens ?? ids.length
    if (ids.length <= long) return [ids]
    return Array.from({ length: Math.floor(ids.length / long) }, (_, i) => ids.slice(i * long, (i + 1) * long))
  })
}
