import { readFileSync } from 'node:fs'
import { type Tensor, tensor, tidy } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import type { AffineLayout } from '../layouts'
import { floatFromHalf, halfFromFloat } from '../rows/half'
import { onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { affineDecode, affineEncode, affineOverflow, blockEncode } from './index'

interface GoldenCase {
  readonly name: string
  readonly kind: 'key' | 'value'
  readonly bits: number
  readonly group: number
  readonly shape: [number, number, number]
  readonly rows: string
  readonly codes: string
  readonly words?: string
  readonly scale: string
  readonly mn: string
  readonly recon?: string
}

const golden = JSON.parse(readFileSync(new URL('../../fixtures/kivi/affine.json', import.meta.url), 'utf8')) as {
  cases: GoldenCase[]
}
const bytesOf = (base64: string): ArrayBuffer => Uint8Array.from(Buffer.from(base64, 'base64')).buffer
const floatsOf = (base64: string) => new Float32Array(bytesOf(base64))

/** Element i of a line of words. */
const codeAt = (words: ArrayLike<number>, line: number, lineWords: number, bits: number, i: number) =>
  ((words[line * lineWords + ((i * bits) >> 5)] ?? 0) >>> ((i * bits) & 31)) & (2 ** bits - 1)

describe.each(golden.cases)('KIVI golden $name', ({ kind, bits, group, shape, ...expected }) => {
  const layout: AffineLayout = {
    kind: 'affine',
    bits,
    group,
    along: kind === 'key' ? 'tokens' : 'channels',
    metadata: 'f32',
  }
  const [heads, n, dim] = shape

  test.each(['cpu', 'wasm'] as const)('bit-exact on %s', async (backend) => {
    const [words, metadata, decoded] = (await onBackend(backend, () =>
      withTensors([{ values: floatsOf(expected.rows), shape }], (rows) => {
        const encoded = affineEncode(rows!, layout)
        return [encoded.words, encoded.metadata, affineDecode(encoded, layout, { heads, rows: n, dim })]
      }),
    )) as [Int32Array, Float32Array, Float32Array]
    if (expected.words) expect(words).toEqual(new Int32Array(bytesOf(expected.words)))
    const [codes, scale, mn] = [
      new Uint8Array(bytesOf(expected.codes)),
      floatsOf(expected.scale),
      floatsOf(expected.mn),
    ]
    const elements = kind === 'key' ? n : dim
    const lineWords = Math.ceil((elements * bits) / 32)
    // One expectation per element would take seconds.
    const wrong: string[] = []
    const compare = (what: string, actual: number | undefined, wanted: number | undefined) =>
      actual !== wanted && wrong.push(`${what}: ${actual} for ${wanted}`)
    for (let token = 0; token < n; token++) {
      for (let channel = 0; channel < dim; channel++) {
        const [line, element] = kind === 'key' ? [channel, token] : [token, channel]
        const stored = (line * elements) / group + Math.floor(element / group)
        const wanted =
          kind === 'key'
            ? Math.floor(token / group) * dim + channel
            : (token * dim) / group + Math.floor(channel / group)
        const code = codes[token * dim + channel]
        compare('scale', metadata[stored * 2], scale[wanted])
        compare('minimum', metadata[stored * 2 + 1], mn[wanted])
        compare('code', codeAt(words, line, lineWords, bits, element), code)
        compare('value', decoded[token * dim + channel], Math.fround(Math.fround(code! * scale[wanted]!) + mn[wanted]!))
      }
    }
    expect(wrong).toEqual([])
    if (expected.recon)
      expect(Array.from(decoded, (x) => x + 0)).toEqual(Array.from(floatsOf(expected.recon), (x) => x + 0))
  })
})

/** Random rows with constant, tiny and wide groups. */
function mixedRows(heads: number, n: number, dim: number): Float32Array {
  const values = randomValues(heads * n * dim, 11, 3)
  for (let i = 0; i < values.length; i++) {
    const channel = i % dim
    if (channel % 7 === 3) values[i] = -0.00725
    if (channel % 7 === 5) values[i] = values[i]! * 1e-6
    if (channel % 11 === 2) values[i] = values[i]! * 2e4
  }
  return values
}

const layouts = [1, 2, 3, 4, 5, 6, 7, 8].flatMap((bits) =>
  (['tokens', 'channels'] as const).flatMap((along) =>
    (['f16', 'f32'] as const).map((metadata) => ({ kind: 'affine', bits, along, metadata }) as const),
  ),
)

describe.each(layouts)('$bits bits along $along, $metadata metadata', (base) => {
  test.each([
    { heads: 3, n: 64, dim: 64, group: 32 },
    { heads: 1, n: 80, dim: 80, group: 16 },
    { heads: 2, n: 20, dim: 20, group: 5 },
    { heads: 2, n: 6, dim: 6, group: 1 },
  ])('wasm equals the reference bit for bit: $n rows of $dim, group $group', async ({ heads, n, dim, group }) => {
    const layout: AffineLayout = { ...base, group }
    const { reference, wasm } = await onBothBackends(() =>
      withTensors([{ values: mixedRows(heads, n, dim), shape: [heads, n, dim] }], (rows) => {
        const encoded = affineEncode(rows!, layout)
        const shape = { heads, rows: n, dim }
        return [
          encoded.words,
          encoded.metadata,
          affineDecode(encoded, layout, shape),
          affineDecode(encoded, layout, shape, 3, Math.max(1, n - 5)),
        ]
      }),
    )
    wasm.forEach((output, i) => {
      expect(output).toEqual(reference[i])
    })
  })
})

test.each(['tokens', 'channels'] as const)('one token along %s', async (along) => {
  const layout: AffineLayout = { kind: 'affine', bits: 2, group: along === 'tokens' ? 1 : 4, along, metadata: 'f16' }
  const { reference, wasm } = await onBothBackends(() =>
    withTensors([{ values: Float32Array.of(-1, -0.2, 0.3, 1), shape: [1, 1, 4] }], (rows) => {
      const encoded = affineEncode(rows!, layout)
      return [encoded.words, affineDecode(encoded, layout, { heads: 1, rows: 1, dim: 4 }), encoded.metadata]
    }),
  )
  wasm.forEach((output, i) => {
    expect(output).toEqual(reference[i])
  })
  if (along === 'channels') expect(wasm[0]).toEqual(Int32Array.of(0xe4))
})

test.each(['cpu', 'wasm'] as const)('rows beyond the range of half metadata are seen on %s', async (backend) => {
  const check = (rows: number[], metadata: 'f16' | 'f32') =>
    withTensors([{ values: Float32Array.from(rows), shape: [1, 1, 4] }], (values) => {
      const encoded = affineEncode(values!, { kind: 'affine', bits: 2, group: 4, along: 'channels', metadata })
      const overflow = affineOverflow(encoded)
      const kept: Tensor[] = [overflow]
      encoded.words.dispose()
      encoded.metadata.dispose()
      return kept
    })
  expect((await onBackend(backend, () => check([0, 1, 2, 3], 'f16')))[0]).toEqual(Int32Array.of(0))
  expect((await onBackend(backend, () => check([-70000, 1, 2, 3], 'f16')))[0]).toEqual(Int32Array.of(1))
  expect((await onBackend(backend, () => check([-70000, 1, 2, 3], 'f32')))[0]).toEqual(Int32Array.of(0))
  expect((await onBackend(backend, () => check([NaN, 1, 2, 3], 'f32')))[0]).toEqual(Int32Array.of(1))
})

test.each([4, 5, 8])('symmetric codes of %i bits are whole numbers times their scale, exactly', async (bits) => {
  const layout: AffineLayout = { kind: 'affine', bits, group: 8, along: 'channels', metadata: 'f16', symmetric: true }
  const half = 2 ** (bits - 1)
  const codes = Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % (2 * half))
  const words = new Int32Array(Math.ceil((24 * bits) / 32))
  codes.forEach((code, i) => {
    for (let bit = 0; bit < bits; bit++) words[(i * bits + bit) >> 5]! |= ((code >> bit) & 1) << ((i * bits + bit) & 31)
  })
  const scales = [0.0123, -3.1, 911]
  const stored = Float32Array.from(scales, (scale) => floatFromHalf(halfFromFloat(scale)))
  const halves = scales.map(halfFromFloat)
  const metadata = Int32Array.of(halves[0]! | (halves[1]! << 16), halves[2]!)
  const { reference, wasm } = await onBothBackends(() =>
    tidy(() => {
      const page = {
        words: tensor(words, [1, 1, words.length], 'int32'),
        metadata: tensor(metadata, [1, 1, 2], 'int32'),
      }
      return [affineDecode(page, layout, { heads: 1, rows: 1, dim: 24 })]
    }),
  )
  // A zero has no sign: it is the difference of two equal products.
  const expected = Float32Array.from(codes, (code, i) => (code - half) * stored[Math.floor(i / 8)]! + 0)
  expect(reference[0]).toEqual(expected)
  expect(wasm[0]).toEqual(expected)
})

describe.each([2, 4, 5, 8])('block formats of %i bits', (bits) => {
  test.each([true, false])('wasm as the reference, bit for bit; symmetric: %s', async (symmetric) => {
    for (const [dim, group] of [
      [96, 32],
      [20, 5],
      [8, 8],
    ] as const) {
      const layout: AffineLayout = { kind: 'affine', bits, group, along: 'channels', metadata: 'f16', symmetric }
      const shape = { heads: 3, rows: 7, dim }
      const values = randomValues(3 * 7 * dim, 11, 5)
      // Zeros, one number all over, two of the same magnitude, halves of a step, and numbers whose scale is no half.
      values.fill(0, 0, group)
      values.fill(-1.5, dim, dim + group)
      values.set([-3, 3, 1.5, -1.5, 0.75], 2 * dim)
      values.set(
        Float32Array.from({ length: group }, (_, i) => (i - 2) * 0.5),
        3 * dim,
      )
      values.set(
        Float32Array.from({ length: group }, (_, i) => (i - 2) * 1e-9),
        4 * dim,
      )
      const { reference, wasm } = await onBothBackends(() =>
        withTensors([{ values, shape: [3, 7, dim] }], (rows) => {
          const encoded = blockEncode(rows!, layout)
          return [encoded.words, encoded.metadata, affineDecode(encoded, layout, shape)]
        }),
      )
      wasm.forEach((output, i) => {
        expect(output).toEqual(reference[i])
      })
      const [, , decoded] = wasm
      const span = (row: number, from: number) => values.subarray(row * dim + from, row * dim + from + group)
      for (const [row, from] of [
        [0, 0],
        [1, 0],
        [5, dim - group],
      ] as const) {
        const x = span(row, from)
        const size = Math.max(...x.map(Math.abs))
        // A step, or two where the codes end before the largest number of the other sign.
        const most = (2 * size) / (2 ** bits - 1) + size / 500
        x.forEach((value, i) => {
          expect(Math.abs((decoded?.[row * dim + from + i] ?? Number.NaN) - value)).toBeLessThanOrEqual(
            symmetric ? 2 * most : most,
          )
        })
      }
    }
  })
})

test('block formats refuse what they do not store', async () => {
  await onBackend('wasm', () => {
    tidy(() => {
      const rows = tensor(new Float32Array(48), [1, 6, 8])
      const layout: AffineLayout = { kind: 'affine', bits: 4, group: 8, along: 'channels', metadata: 'f16' }
      expect(() => blockEncode(rows, { ...layout, metadata: 'f32' })).toThrow(/affineEncode/)
      expect(() => blockEncode(rows, { ...layout, group: 3, along: 'tokens' })).toThrow(KernelInputError)
      expect(() => blockEncode(rows, { ...layout, group: 5 })).toThrow(KernelInputError)
    })
    return []
  })
})

test('refuses layouts and shapes that do not fit', async () => {
  await onBackend('wasm', () => {
    tidy(() => {
      const rows = tensor(new Float32Array(48), [1, 6, 8])
      const layout: AffineLayout = { kind: 'affine', bits: 2, group: 4, along: 'tokens', metadata: 'f16' }
      expect(() => affineEncode(rows, layout)).toThrow(/6 tokens in groups of 4/)
      expect(() => affineEncode(rows, { ...layout, bits: 9, along: 'channels' })).toThrow(KernelInputError)
      expect(() => affineEncode(rows, { ...layout, along: 'channels', symmetric: true })).toThrow(/blockEncode/)
      expect(() => affineEncode(rows, { ...layout, group: 2, symmetric: true })).toThrow(/along channels/)
      const encoded = affineEncode(rows, { ...layout, along: 'channels' })
      expect(() => affineDecode(encoded, { ...layout, along: 'channels' }, { heads: 1, rows: 5, dim: 8 })).toThrow(
        /6 rows of the page/,
      )
      expect(() =>
        affineDecode(encoded, { ...layout, along: 'channels' }, { heads: 1, rows: 6, dim: 8 }, 4, 3),
      ).toThrow(KernelInputError)
    })
    return []
  })
})
