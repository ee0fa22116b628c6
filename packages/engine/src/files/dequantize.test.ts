import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { dequantize, halfToNumber } from './dequantize'
import { readSafetensors } from './safetensors'
import { fileFormats, formatLayout } from './tensor-types'
import { errorCode } from './testing'

const fixture = await readSafetensors(fileURLToPath(new URL('../../fixtures/quants.safetensors', import.meta.url)))

describe('dequantize, against the gguf package', () => {
  it.each(fileFormats.filter((format) => format !== 'f32'))('%s, bit for bit', (format) => {
    const data = fixture.get(`${format}.data`)?.data as Uint8Array
    const values = fixture.get(`${format}.values`)?.data as Float32Array
    expect(values.length).toBeGreaterThan(500)
    expect(dequantize(format, data)).toEqual(values)
  })

  it('gives f32 as it is, from any byte offset', () => {
    const bytes = new Uint8Array(new Float32Array([1, -2.5, 3e-39]).buffer)
    const shifted = new Uint8Array([0, ...bytes]).subarray(1)
    expect([...dequantize('f32', shifted)]).toEqual([1, -2.5, Math.fround(3e-39)])
  })

  it('gives only as many values as asked for', () => {
    const data = fixture.get('q4_1.data')?.data as Uint8Array
    expect([...dequantize('q4_1', data, 33)]).toEqual([...dequantize('q4_1', data).subarray(0, 33)])
    expect(dequantize('q4_1', new Uint8Array()).length).toBe(0)
  })

  it('refuses other types, half blocks and too few values', async () => {
    expect(await errorCode(() => dequantize('iq2_xs', new Uint8Array(74)))).toBe('UNSUPPORTED_TENSOR_TYPE')
    expect(await errorCode(() => dequantize('q8_0', new Uint8Array(33)))).toBe('BAD_SHAPE')
    expect(await errorCode(() => dequantize('q8_0', new Uint8Array(34), 33))).toBe('BAD_SHAPE')
  })

  it('knows the layout of every format', () => {
    expect(fileFormats.map((format) => formatLayout(format).blockBytes)).toEqual([
      4, 2, 2, 34, 18, 20, 22, 24, 144, 176, 210,
    ])
  })

  it('reads every half', () => {
    expect([0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0xfc00].map(halfToNumber)).toEqual([
      0,
      -0,
      1,
      -2,
      2 ** -24,
      65504,
      Infinity,
      -Infinity,
    ])
    expect(halfToNumber(0x7e00)).toBeNaN()
  })
})
