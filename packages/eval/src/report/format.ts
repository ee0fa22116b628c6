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

export const milliseconds = (value: number): string =>
  value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : value.toFixed(0)

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
