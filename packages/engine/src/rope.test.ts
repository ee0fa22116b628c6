import { describe, expect, it } from 'vitest'
import { ropeOf } from './rope'

/** Two units in the last place of float32: powers differ that much between maths libraries, relative. */
const ROUNDING = 2.5e-7

/** Values of transformers' formulas (modeling_rope_utils.py) computed with numpy in float32. */
const expected = {
  plain: [
    [0, 1],
    [1, 0.7498942017555237],
    [15, 0.01333521492779255],
    [31, 0.0001333521504420787],
  ],
  llama3: [
    [0, 1],
    [10, 0.016560440883040428],
    [14, 0.0032114461064338684],
    [15, 0.0012905480107292533],
    [16, 0.000429556705057621],
    [17, 9.708286233944818e-5],
    [18, 1.9461638657958247e-5],
    [19, 1.2914768376504071e-5],
    [31, 9.41830720080361e-8],
  ],
  yarn: [
    [0, 1],
    [10, 0.11547820270061493],
    [20, 0.01333521492779255],
    [25, 0.004131738096475601],
    [30, 0.001064361073076725],
    [35, 0.0002462583943270147],
    [40, 4.4456985051510856e-5],
    [50, 5.133812464919174e-6],
    [63, 3.102344408034696e-7],
  ],
} as const

function compare(
  frequencies: Float64Array,
  values: readonly (readonly [number, number])[],
  tolerance = ROUNDING,
): void {
  for (const [pair, value] of values)
    expect(Math.abs((frequencies[pair] ?? NaN) / value - 1), `pair ${pair}`).toBeLessThan(tolerance)
}

describe('ropeOf', () => {
  it('plain: theta^(-2i/dim), float32 numbers', () => {
    const rope = ropeOf({ theta: 10_000, dim: 64, scaling: { kind: 'none' } })
    expect(rope).toMatchObject({ dim: 64, attentionFactor: 1 })
    expect(rope.frequencies).toHaveLength(32)
    compare(rope.frequencies, expected.plain)
    expect(rope.frequencies.every((each) => each === Math.fround(each))).toBe(true)
  })

  it('llama3, as Llama 3.2 1B has it', () => {
    const scaling = {
      kind: 'llama3',
      factor: 32,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextLength: 8192,
    } as const
    // In the blend two nearly equal numbers are subtracted, which magnifies a rounding of the power.
    compare(ropeOf({ theta: 500_000, dim: 64, scaling }).frequencies, expected.llama3, 10 * ROUNDING)
  })

  it('YaRN, as Qwen2.5 recommends it', () => {
    const scaling = {
      kind: 'yarn',
      factor: 4,
      originalContextLength: 32_768,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: undefined,
    } as const
    const rope = ropeOf({ theta: 1_000_000, dim: 128, scaling })
    compare(rope.frequencies, expected.yarn)
    expect(rope.attentionFactor).toBeCloseTo(1.138629436111989, 12)
    const given = ropeOf({ theta: 1_000_000, dim: 128, scaling: { ...scaling, attentionFactor: 1.5 } })
    expect(given.attentionFactor).toBe(1.5)
    expect(ropeOf({ theta: 1_000_000, dim: 128, scaling: { ...scaling, factor: 1 } }).attentionFactor).toBe(1)
  })

  it('linear and by factors', () => {
    const plain = ropeOf({ theta: 10_000, dim: 8, scaling: { kind: 'none' } }).frequencies
    const linear = ropeOf({ theta: 10_000, dim: 8, scaling: { kind: 'linear', factor: 4 } }).frequencies
    const factors = ropeOf({ theta: 10_000, dim: 8, scaling: { kind: 'factors', factors: [1, 2, 4, 8] } }).frequencies
    expect([...linear]).toEqual([...plain].map((each) => Math.fround(each / 4)))
    expect([...factors]).toEqual([...plain].map((each, i) => Math.fround(each / 2 ** i)))
  })
})
