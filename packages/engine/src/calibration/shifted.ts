// A pass of the calibration sequences in which every layer attends to rows that are not its own: what its rows become once they are compressed.
import { type CalibrationRun, type HostTensor, OptionError, type Part } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { useBackend } from '../backend'
import { afterAttention, attentionInputs, embed, mlp } from '../llama'
import type { Model } from '../model'
import { attendToItself } from './attention'
import { hostTensor } from './gradients'

/** What a layer attends to instead of its rows. */
export type Replace = Parameters<NonNullable<CalibrationRun['shifted']>>[1]
type Rows = Readonly<Record<Part, readonly HostTensor[]>>

/** What a pass uses of the options of a calibration run. */
interface PassOptions {
  readonly sequences: readonly Int32Array[]
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: { readonly doing: 'rows'; readonly done: number; readonly total: number }) => void
}

/** Goes through the layers once; hidden states of all sequences lie in host memory. */
export class ShiftedRows {
  /** What the next layer is given, per sequence. */
  private hidden: readonly HostTensor[] | null = null
  private next = 0

  constructor(
    private readonly model: Model,
    private readonly options: PassOptions,
  ) {}

  async at(layer: number, replace: Replace): Promise<Rows> {
    const { model, options } = this
    const { layers } = model.shape
    if (!Number.isInteger(layer) || layer < this.next || layer >= layers)
      throw new OptionError(
        'shifted',
        'layer',
        layer,
        `a whole number from ${this.next} to ${layers - 1}`,
        'Ask for layers in ascending order, or begin a new calibrationRun().',
      )
    await useBackend(model.backend)
    this.hidden ??= await Promise.all(options.sequences.map((ids) => toHost(embed(model.packed, ids))))
    while (this.next < layer) {
      this.hidden = await this.advance(this.hidden, replace)
      this.next++
    }
    const rows: Record<Part, HostTensor[]> = { keys: [], values: [] }
    for (const host of this.hidden) {
      const { keys, values } = await this.inputs(host, layer, async (now) => ({
        keys: await hostTensor(now.keys),
        values: await hostTensor(now.values),
      }))
      rows.keys.push(keys)
      rows.values.push(values)
    }
    return rows
  }

  /** Takes every sequence through layer `next`. A pass that is cut short leaves the hidden states of before it. */
  private async advance(hidden: readonly HostTensor[], replace: Replace): Promise<readonly HostTensor[]> {
    const { config, packed, shape } = this.model
    const { signal, onProgress } = this.options
    const layer = packed.layers[this.next]
    if (!layer) return hidden
    const after: HostTensor[] = []
    for (const host of hidden) {
      signal?.throwIfAborted()
      const output = await this.inputs(host, this.next, async ({ queries, keys, values }, input) => {
        const own = { keys: await hostTensor(keys), values: await hostTensor(values) }
        const given = replace(this.next, own)
        const seen = { keys: upload(given.keys), values: upload(given.values) }
        try {
          const attended = await attendToItself(shape, { queries, ...seen })
          const result = tf.tidy(() => mlp(config, layer, afterAttention(layer, input, attended)))
          attended.dispose()
          return result
        } finally {
          tf.dispose(seen)
        }
      })
      after.push(await toHost(output))
      onProgress?.({
        doing: 'rows',
        done: this.next * hidden.length + after.length,
        total: shape.layers * hidden.length,
      })
    }
    return after
  }

  /** Runs `work` on what layer `number` makes of hidden states for its attention, and frees that. */
  private async inputs<T>(
    host: HostTensor,
    number: number,
    work: (now: ReturnType<typeof attentionInputs>, input: tf.Tensor) => Promise<T>,
  ): Promise<T> {
    const { config, packed } = this.model
    const layer = packed.layers[number]
    if (!layer) throw new OptionError('shifted', 'layer', number, 'a layer of the model')
    const input = upload(host)
    const now = attentionInputs(config, layer, input)
    try {
      return await work(now, input)
    } finally {
      tf.dispose([input])
      tf.dispose(now)
    }
  }
}

const upload = ({ shape, values }: HostTensor): tf.Tensor => tf.tensor(values, [...shape], 'float32')

/** A copy in host memory; the tensor is freed. */
async function toHost(tensor: tf.Tensor): Promise<HostTensor> {
  const host = await hostTensor(tensor)
  tensor.dispose()
  return host
}
