import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { SHAPES, shapesOf, testCompressor } from '@kvloom/conformance'
import { type HostTensor, KvloomError, OptionError, siteOf, stagesOn } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { deflate } from './deflate'

testCompressor({ describe, it, expect }, { name: 'deflate', make: () => deflate(), backends: ['wasm'], shapes: SHAPES })

const codec = (level = 6) => {
  const [model] = shapesOf(1)
  const [stage] = stagesOn(deflate({ level }), 'lossless', 0, 'keys')
  if (!model || !stage) throw new Error('no stage')
  return stage.bind(siteOf(model, 0, 'keys'))
}
const caught = (work: () => unknown): unknown => {
  try {
    return work()
  } catch (error) {
    return error
  }
}
const numbers = (n: number): HostTensor => ({
  shape: [1, n, 1],
  values: Float32Array.from({ length: n }, (_, i) => Math.sin(i / 7) / 3),
})

describe('deflate', () => {
  it('gives back every bit: signed zeros, denormals, infinities, NaN with a payload', () => {
    const bits = Int32Array.of(0, 0x80000000 | 0, 1, 0x7f800000, 0xff800000 | 0, 0x7fc12345, -1, 0x3f800000)
    const floats = { shape: [1, 8, 1], values: new Float32Array(bits.buffer) }
    for (const level of [0, 1, 9]) {
      const { values } = codec(level).decode(codec(level).encode(floats), { shape: [1, 8, 1], dtype: 'float32' })
      expect(values).toBeInstanceOf(Float32Array)
      expect(new Int32Array(values.buffer)).toEqual(bits)
      const ints = codec(level).decode(codec(level).encode({ shape: [8], values: bits }), {
        shape: [8],
        dtype: 'int32',
      })
      expect(ints.values).toEqual(bits)
    }
  })

  it('codes a view of a larger array, and nothing', () => {
    const all = Float32Array.from({ length: 64 }, (_, i) => i)
    const part = { shape: [1, 5, 2], values: all.subarray(3, 13) }
    expect(codec().decode(codec().encode(part), { shape: [1, 5, 2], dtype: 'float32' }).values).toEqual(
      all.slice(3, 13),
    )
    const none = codec().encode({ shape: [2, 0, 4], values: new Float32Array() })
    expect(codec().decode(none, { shape: [2, 0, 4], dtype: 'float32' }).values).toHaveLength(0)
  })

  it('writes what any other inflater reads: the planes of the bytes', () => {
    const { values } = numbers(50)
    const planes = inflateRawSync(codec().encode(numbers(50)))
    const bytes = new Uint8Array(values.buffer)
    for (const i of [0, 17, 49]) for (let p = 0; p < 4; p++) expect(planes[p * 50 + i]).toBe(bytes[4 * i + p])
  })

  it('takes less room for smooth rows, and hardly more for noise', () => {
    expect(codec().encode(numbers(4096)).length).toBeLessThan(4096 * 4 * 0.8)
    let state = 1
    const noise = Int32Array.from({ length: 4096 }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) | 0
      return state ^ (state >>> 13)
    })
    expect(codec().encode({ shape: [4096], values: noise }).length).toBeLessThan(4096 * 4 * 1.01)
  })

  it('refuses bytes that are damaged, cut short or of another tensor', () => {
    const bytes = codec().encode(numbers(100))
    const form = { shape: [1, 100, 1], dtype: 'float32' } as const
    for (const wrong of [bytes.slice(0, 40), Uint8Array.of(7, 7, 7), new Uint8Array()])
      expect(() => codec().decode(wrong, form)).toThrow(KvloomError)
    expect(() => codec().decode(bytes, { shape: [1, 99, 1], dtype: 'float32' })).toThrow(
      /400 bytes, and 396 are expected/,
    )
  })

  it('stops at bytes that would be more than a tensor has, before they fill the memory', () => {
    const bomb = deflateRawSync(new Uint8Array(64 * 1024 * 1024))
    const form = { shape: [1, 100, 1], dtype: 'float32' } as const
    const [, found] = /have at least (\d+) bytes/.exec(String(caught(() => codec().decode(bomb, form)))) ?? []
    expect(Number(found)).toBeGreaterThan(400)
    expect(Number(found)).toBeLessThan(8 * 1024 * 1024)
  })

  it('takes codes of any length apart, whatever their blocks', () => {
    for (const n of [1023, 1024, 20_000]) {
      const { shape, values } = numbers(n)
      for (const level of [0, 1, 9])
        expect(codec().decode(codec(level).encode({ shape, values }), { shape, dtype: 'float32' }).values).toEqual(
          values,
        )
    }
  })

  it('refuses a level that there is not', () => {
    expect(() => deflate({ level: 10 })).toThrow(OptionError)
  })
})
