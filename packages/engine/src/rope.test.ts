import { describe, expect, it } from 'vitest'
import { readGgufRope } from './models/gguf-rope'
import { settingsReader } from './models/settings-reader'
import { extrapolatedShares, ropeOf } from './rope'

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

  it('YaRN between broken pairs, by hand', () => {
    const ramp = { originalContextLength: 256, betaFast: 32, betaSlow: 1 }
    // Pairs that turn 32 times and once: 16 ln(256 / (32 · 2π)) / (2 ln 1000) = 0.27976 and 4.29349.
    const whole = extrapolatedShares(1000, 16, ramp)
    const broken = extrapolatedShares(1000, 16, { ...ramp, truncate: false })
    expect([...whole]).toEqual([1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0].map((share) => expect.closeTo(share, 6) as number))
    expect(broken[0]).toBe(1)
    expect(broken[1]).toBeCloseTo(1 - (1 - 0.27976) / (4.29349 - 0.27976), 4)
    expect(broken[5]).toBe(0)
  })
})

describe('RoPE of a GGUF file', () => {
  const read = (keys: Record<string, unknown>, divisors?: number[]) => {
    const rope = readGgufRope(
      'toy.gguf',
      settingsReader('toy.gguf', (key) => keys[key]),
      { keyDim: 16, contextLength: 512 },
      divisors,
    )
    return ropeOf(rope)
  }
  const yarn = { 'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4 }

  it.each([
    [{ 'rope.scaling.factor': 2 }, 0.5],
    [{ 'rope.scale_linear': 2 }, 0.5],
    [{ 'rope.scaling.type': 'linear', 'rope.scaling.factor': 2 }, 0.5],
    [{ 'rope.scaling.type': 'none', 'rope.scaling.factor': 2 }, 1],
    [{ 'rope.scale_linear': 0 }, 1],
    [{}, 1],
  ])('%j turns the first pair by %d a token', (keys, angle) => {
    expect(read(keys).frequencies[0]).toBe(angle)
    expect(read(keys, Array(8).fill(4)).frequencies[0]).toBe(angle / 4)
  })

  it.each([
    [yarn, 1.138629436],
    [{ ...yarn, 'rope.scaling.attn_factor': 1 }, 1.138629436],
    [{ ...yarn, 'rope.scaling.attn_factor': 2 }, 2.277258872],
    [{ ...yarn, 'rope.scaling.yarn_attn_factor': 3 }, 1.138629436],
    [{ ...yarn, 'rope.scaling.yarn_log_multiplier': 0.5 }, 1.138629436 / 1.069314718],
    [{ ...yarn, 'rope.scaling.yarn_ext_factor': 0 }, 1],
    [{ ...yarn, 'rope.scaling.yarn_ext_factor': 0, 'rope.scaling.yarn_attn_factor': 3 }, 3],
    [{ ...yarn, 'rope.scaling.yarn_ext_factor': -1 }, 1.138629436],
    [{ 'rope.scaling.factor': 4, 'rope.scaling.attn_factor': 2 }, 2],
  ])('%j multiplies cos and sin by %d', (keys, factor) => {
    expect(read(keys).attentionFactor).toBeCloseTo(factor, 8)
  })

  it('leaves a part of what YaRN leaves, by the extrapolation factor', () => {
    const at = (extension: number) => read({ ...yarn, 'rope.scaling.yarn_ext_factor': extension }).frequencies[0]
    expect([at(1), at(0.5), at(0)]).toEqual([1, 0.625, 0.25])
  })

  it('refuses divisors that do not fit, and heads of no model', () => {
    expect(() => read({}, [1, 2])).toThrow('rope_freqs.weight of 2 values; allowed: 8 positive numbers')
    expect(() => read({}, [1, 1, 1, 0, 1, 1, 1, 1])).toThrow('one of them 0')
    const wide = { keyDim: 2 ** 30, contextLength: 512 }
    expect(() =>
      readGgufRope(
        'x',
        settingsReader('x', () => undefined),
        wide,
        undefined,
      ),
    ).toThrow('at most 65536')
  })
})
