/**
 * FreqKV: along the sequence, keys and values hold most of their energy in low frequencies. When the cache is full, its rows
 * (but the sinks) are low-pass filtered and resampled to fewer rows, again and again as text comes in, so that it never
 * grows and never drops a token whole.
 *
 *   Z = DCT-II(x)[0 ... M),  y = sqrt(M / N) · DCT-III_M(Z)        N = window - sinks rows become M = trunc(N · keep)
 *
 * J. Kai et al., "FreqKV: Key-Value Compression in Frequency Domain for Context Window Extension" (arXiv 2505.00570,
 * ICLR 2026), section 3. What differs: the two transforms are one matrix, made in float64, where the authors run a float32
 * FFT; the schedule is that of their flash-attention path (without it their code adds 1 to the logits of compressed rows).
 * The paper fine-tunes the model for it; untrained, as here, it is an experiment.
 */
import {
  defineMethod,
  gainOf,
  type HostTensor,
  IncompatibleStages,
  OptionError,
  type Site,
  type Stage,
} from '@kvloom/core'
import { lowPassMatrix } from '@kvloom/math'
import { matMul, reshape, slice, stack, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { freqkvOptions } from './options'

/** Holds at most `window` rows: when they are full, all but the sinks are filtered down to the fraction `keep` of them. */
export const freqkv = defineMethod(
  {
    name: 'freqkv',
    title: 'FreqKV',
    summary: 'When the cache is full, filters it along the sequence into fewer rows.',
    paper: {
      title: 'FreqKV: Key-Value Compression in Frequency Domain for Context Window Extension',
      link: 'https://arxiv.org/abs/2505.00570',
    },
    chunkInvariant: false, // chunks may not cross the moment at which the cache is full
  },
  freqkvOptions,
  (options) => {
    const { window, sinks, keep } = options
    const from = window - sinks
    const to = Math.trunc(from * keep)
    if (from < 2) throw new OptionError('freqkv', 'window', window, `a whole number from sinks + 2 (${sinks + 2})`)
    if (to < 1 || to === from)
      throw new OptionError(
        'freqkv',
        'keep',
        keep,
        `a number that leaves 1 to ${from - 1} of the ${from} rows after the sinks`,
        'Fewer rows must remain, and at least one.',
      )
    const filter = lowPass(from, to) // one table for all layers
    const stage: Stage<'resample'> = {
      kind: 'resample',
      id: 'freqkv',
      options,
      when: 'room',
      accepts(space, earlier) {
        if (space.tokenSets !== 'model' || space.drops !== 'never')
          throw new IncompatibleStages(
            earlier,
            'freqkv',
            `${earlier} chooses among tokens, and a row that freqkv has filtered stands for no token.`,
            [
              { kind: 'leaveOut', anyOf: [earlier, 'freqkv'] },
              { kind: 'separate', by: 'layers', methods: [earlier, 'freqkv'] },
            ],
          )
        return { ...space, rope: space.part === 'keys' ? 'pre' : space.rope, slots: true }
      },
      bind: ({ hold }) => ({ sinks, capacity: window, to, apply: filter.apply(hold), gain: filter.gain() }),
    }
    return { stages: [stage] }
  },
)

/** A filter along the sequence. Its table is made when it is first asked for, and is the same for all layers. */
export interface LowPass {
  /** Takes what holds a table, and returns what filters every head of `[heads, from, dim]` into `[heads, to, dim]`, the caller's. */
  apply(hold: Site['hold']): (rows: Tensor) => Tensor
  /** By how much a filtered row may exceed the largest number of those that it is made of; at least 1. */
  gain(): number
}

/** The filter from `from` rows to `to`. @throws MathError when it is asked, unless 1 <= to <= from */
export function lowPass(from: number, to: number): LowPass {
  let made: HostTensor | undefined
  const table = () => {
    made ??= { shape: [to, from], values: Float32Array.from(lowPassMatrix(from, to).data) }
    return made
  }
  return {
    apply(hold) {
      const filter = hold(table())
      return (rows) =>
        tidy(() => {
          const [heads = 0, , dim = 0] = rows.shape
          const one = (head: number) => reshape(slice(rows, [head, 0, 0], [1, from, dim]), [from, dim])
          return stack(Array.from({ length: heads }, (_, head) => matMul(filter, one(head))))
        })
    },
    gain: () => Math.max(1, gainOf(table())),
  }
}
