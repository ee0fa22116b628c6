// Means and scatter of numbers that were measured several times, and the texts to measure them on.
import { mean } from '@kvloom/eval'

/** `deviation` is the standard deviation of one run (n - 1 in its denominator); null of a single one. */
export interface Scatter {
  readonly runs: number
  readonly mean: number
  readonly deviation: number | null
  readonly min: number
  readonly max: number
}

export function scatter(values: readonly number[]): Scatter {
  const middle = mean(values)
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0)
  return {
    runs: values.length,
    mean: middle,
    deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null,
    min: Math.min(...values),
    max: Math.max(...values),
  }
}

/** A text as it is read from character `offset` on; what stands before it follows behind. */
export interface TurnedText {
  readonly offset: number
  readonly text: string
}

/**
 * The same text from `count` beginnings, evenly apart, each the first one or after a line break. What is read of them overlaps
 * only where it is longer than a `count`th of the text.
 */
export const turnedTexts = (text: string, count: number): readonly TurnedText[] =>
  Array.from({ length: count }, (_, i) => {
    const even = Math.floor((i * text.length) / count)
    const offset = i === 0 ? 0 : text.indexOf('\n', even) + 1
    return { offset, text: text.slice(offset) + text.slice(0, offset) }
  })
