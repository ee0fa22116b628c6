/** Small statistics over measured numbers. */

/** Median and quartiles of `count` measurements. */
export interface Spread {
  readonly median: number
  readonly lowerQuartile: number
  readonly upperQuartile: number
  readonly count: number
}

export const mean = (values: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i] as number
  return sum / values.length
}

/** Quantile with linear interpolation between order statistics (numpy's default). NaN for no values. @param q in [0, 1]. */
export function quantile(values: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(values).sort()
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

export const median = (values: ArrayLike<number>): number => quantile(values, 0.5)

/** Median and quartiles; null when nothing was measured. */
export const spread = (values: ArrayLike<number>): Spread | null =>
  values.length === 0
    ? null
    : {
        median: median(values),
        lowerQuartile: quantile(values, 0.25),
        upperQuartile: quantile(values, 0.75),
        count: values.length,
      }
