// Block formats as ggml quantizes them: groups of channels of a row with one scale (symmetric codes), or a scale and a minimum. Every step is one f32 operation.
import { halfBits } from './half'

/** A number between two bounds; NaN is the lower one. */
// @ts-ignore: decorator
@inline
function within(x: f32, low: f32, high: f32): f32 {
  return x > low ? (x < high ? x : high) : low
}

/** Whole number nearest to x, halves away from zero. */
// @ts-ignore: decorator
@inline
function nearestAway(x: f32): f32 {
  // Adding 0.5 would round up what lies just below a half.
  const size = abs<f32>(x)
  const whole = floor<f32>(size)
  return copysign<f32>(whole + floor<f32>(2 * (size - whole)), x)
}

/**
 * rows f32 [lines, dim] to words [lines, ceil(dim * bits / 32)] and metadata [lines, words of halves]: halves of scales two groups a word when
 * `symmetric`, else scale (low) and minimum (high) of a group a word.
 */
export function blockEncode(rows: usize, lines: i32, dim: i32, bits: i32, group: i32, symmetric: i32, words: usize, metadata: usize): void {
  const half = <f32>(1 << (bits - 1))
  const top = <f32>((1 << bits) - 1)
  const groups = dim / group
  const lineWords = <usize>((dim * bits + 31) >> 5) * 4
  const lineMetadata = <usize>(symmetric ? (groups + 1) >> 1 : groups) * 4
  for (let line = 0; line < lines; line++, rows += <usize>dim * 4, words += lineWords, metadata += lineMetadata) {
    memory.fill(metadata, 0, lineMetadata)
    let pending: u64 = 0
    let filled = 0
    let wordAt = words
    for (let number = 0; number < groups; number++) {
      const from = rows + <usize>(number * group) * 4
      const end = from + <usize>group * 4
      let low = load<f32>(from), high = low, first = low
      for (let at = from + 4; at < end; at += 4) {
        const x = load<f32>(at)
        low = min<f32>(low, x)
        high = max<f32>(high, x)
        // The first of two with the same magnitude.
        if (abs<f32>(x) > abs<f32>(first)) first = x
      }
      let scale: f32
      if (!symmetric) scale = (high - low) / top
      else scale = bits == 8 ? abs<f32>(first) / (half - 1) : first / -half
      const inverse: f32 = scale == 0 ? 0 : <f32>1 / scale
      if (symmetric) store<u16>(metadata + <usize>number * 2, <u16>halfBits(scale))
      else store<u32>(metadata + <usize>number * 4, halfBits(scale) | (halfBits(low) << 16))
      for (let at = from; at < end; at += 4) {
        const x = load<f32>(at)
        let code: f32
        if (!symmetric) code = within(floor<f32>((x - low) * inverse + <f32>0.5), 0, top)
        else if (bits == 8) code = within(nearestAway(x * inverse), -half, half - 1) + half
        else code = within(floor<f32>(x * inverse + (half + <f32>0.5)), 0, top)
        pending |= <u64>(<u32>code) << <u64>filled
        filled += bits
        if (filled >= 32) {
          store<u32>(wordAt, <u32>pending)
          wordAt += 4
          pending >>= 32
          filled -= 32
        }
      }
    }
    if (filled > 0) store<u32>(wordAt, <u32>pending)
  }
}
