import { readFileSync } from 'node:fs'
import { type Tensor, tensor, tidy } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import type { AffineLayout } from '../layouts'
import { onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { affineDecode, affineEncode, affineOverflow } from './index'

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

test('refuses layouts and shapes that do not fit', async () => {
  await onBackend('wasm', () => {
    tidy(() => {
      const rows = tensor(new Float32Array(48), [1, 6, 8])
      const layout: AffineLayout = { kind: 'affine', bits: 2, group: 4, along: 'tokens', metadata: 'f16' }
      expect(() => affineEncode(rows, layout)).toThrow(/6 tokens in groups of 4/)
      expect(() => affineEncode(rows, { ...layout, bits: 9, along: 'channels' })).toThrow(KernelInputError)
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
