/** Numbers as people read them. */

/** Four significant digits for perplexities and the like. */
export const number = (value: number, digits = 4): string => {
  if (!Number.isFinite(value)) return '–'
  if (value === 0) return '0'
  const magnitude = Math.abs(value)
  if (magnitude >= 1e5 || magnitude < 1e-3) return value.toExponential(Math.max(0, digits - 3))
  return Number(value.toPrecision(digits)).toLocaleString('en', {
    maximumSignificantDigits: digits,
    useGrouping: false,
  })
}

export const percent = (fraction: number, digits = 1): string => `${(fraction * 100).toFixed(digits)} %`

/** With its sign, for differences. */
export const signedPercent = (fraction: number, digits = 0): string => {
  const shown = (Math.abs(fraction) * 100).toFixed(digits)
  const sign = Number(shown) === 0 ? '±' : fraction > 0 ? '+' : '−'
  return `${sign}${shown} %`
}

export const bits = (value: number): string => value.toFixed(2)

/** Bytes in binary units. */
export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB']
  let at = 0
  let rest = value
  while (rest >= 1024 && at < units.length - 1) {
    rest /= 1024
    at++
  }
  return `${at === 0 ? rest : rest.toFixed(rest < 10 ? 2 : rest < 100 ? 1 : 0)} ${units[at]}`
}

const decimals = (ms: number): number => (ms < 1 ? 2 : ms < 10 ? 1 : 0)

export const milliseconds = (value: number): string => value.toFixed(decimals(value))

/** A median with half the distance of its quartiles: `2.3 ±0.1`. */
export const medianAndSpread = ({ median, lowerQuartile, upperQuartile }: Quartiles): string =>
  `${milliseconds(median)} ±${((upperQuartile - lowerQuartile) / 2).toFixed(decimals(median))}`

/** The quartiles of times: `2.2–2.5`. */
export const quartiles = ({ median, lowerQuartile, upperQuartile }: Quartiles): string =>
  `${lowerQuartile.toFixed(decimals(median))}–${upperQuartile.toFixed(decimals(median))}`

/** A factor: `1.05×`. */
export const factor = (value: number): string => `${value.toFixed(2)}×`

interface Quartiles {
  readonly median: number
  readonly lowerQuartile: number
  readonly upperQuartile: number
}

/** How times were taken, in one sentence. @param beside what stands beside a median. */
export function timingSentence({ protocol: { timing }, baseline }: Timed, beside: string): string {
  const counted = baseline.result?.times.decode?.count ?? 0
  if (timing === null || !(baseline.result?.times.prefill || counted > 0)) return 'Times were not taken.'
  const { contextTokens, warmUpRounds, rounds, groups } = timing
  const wanted = rounds * Math.max(1, groups)
  const steps = counted === wanted ? `${rounds} decode steps` : `decode steps (${counted} of ${wanted})`
  return `Times are medians (${beside}) over rounds in which every row takes one step in turn: the context of ${contextTokens} tokens in pieces (the first is a warm-up), then ${steps} behind ${warmUpRounds} of warm-up${groups > 1 ? `; the rows in ${groups} groups, each with the uncompressed row` : ''}.`
}

/** What a sentence about times needs of a report. */
interface Timed {
  readonly protocol: {
    readonly timing: {
      readonly contextTokens: number
      readonly warmUpRounds: number
      readonly rounds: number
      readonly groups: number
    } | null
  }
  readonly baseline: {
    readonly result: {
      readonly times: { readonly prefill: object | null; readonly decode: { readonly count: number } | null }
    } | null
  }
}

/** Why a row has no numbers. */
export function whyNot(row: { readonly status: string; readonly error: { readonly message: string } | null }): string {
  if (row.error) return `failed: ${row.error.message}`
  switch (row.status) {
    case 'interrupted':
      return 'not measured: the run was interrupted'
    case 'skipped':
      return 'not run: no row could run'
    default:
      return `not measured yet (${row.status})`
  }
}

/** What protocol, on what, in one sentence. */
export function protocolSentence(protocol: {
  name: 'P' | 'E' | 'W'
  tokens: number
  chunk: number
  promptTokens: number
  scoredTargets: { from: number; to: number }
}): string {
  const { name, tokens, chunk, promptTokens, scoredTargets } = protocol
  const scored = scoredTargets.to - scoredTargets.from
  switch (name) {
    case 'P':
      return `Protocol P: ${tokens} tokens in chunks of ${chunk}, each attending to the compressed past and exactly to itself; the last ${scored} are scored.`
    case 'E':
      return `Protocol E: a prompt of ${promptTokens} tokens, compressed at its end; the next ${scored} tokens are scored over it in steps of ${chunk}.`
    case 'W':
      return `Protocol W: ${tokens} tokens in steps of ${chunk}, the first ${promptTokens} as the prompt; methods that replace keys and values are read as stored from the first token on; tokens ${scoredTargets.from} to ${scoredTargets.to - 1} are scored.`
  }
}
