import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { ModelFileError } from '../errors'
import { bytesSource } from './byte-source'
import { openGguf } from './gguf'
import { errorCode, makeGguf } from './testing'

const mini = new Uint8Array(fs.readFileSync(fileURLToPath(new URL('../../fixtures/mini-llama.gguf', import.meta.url))))
const open = (bytes: Uint8Array) => openGguf(bytesSource(bytes, 'made-up.gguf'))
const f32 = { name: 't', dims: [4], type: 0, offset: 0 }

describe('a whole file', () => {
  it('gives every kind of metadata value', async () => {
    const { metadata, version } = await open(mini)
    expect(version).toBe(3)
    expect(Object.fromEntries([...metadata].filter(([key]) => key.startsWith('values.')))).toEqual({
      'values.u8': 255,
      'values.i8': -128,
      'values.u16': 65535,
      'values.i16': -32768,
      'values.u32': 2 ** 32 - 1,
      'values.i32': -(2 ** 31),
      'values.u64': 2n ** 64n - 1n,
      'values.i64': -(2n ** 63n),
      'values.f32': Math.fround(0.1),
      'values.f64': 0.1,
      'values.bool': true,
      'values.string': 'naïve \ufeff日本',
      'values.strings': ['a', '', 'ü'],
      'values.numbers': [1, -2, 3],
    })
  })

  it('gives shapes outermost first, and data by name', async () => {
    const gguf = await open(mini)
    expect(gguf.tensors.get('blk.1.ffn_down.weight')).toMatchObject({ shape: [32, 64], bytes: (32 * 64 * 34) / 32 })
    expect((await gguf.read('output_norm.weight')).byteLength).toBe(32 * 4)
    expect(await errorCode(() => gguf.read('no such'))).toBe('TENSOR_MISSING')
  })

  it('reads no more than header and tensors', async () => {
    let most = 0
    const source = bytesSource(mini)
    const gguf = await openGguf({
      ...source,
      read: (offset, length) => {
        most = Math.max(most, offset + length)
        return source.read(offset, length)
      },
    })
    await gguf.read('output_norm.weight')
    expect(most).toBeLessThanOrEqual(mini.length)
  })

  it('follows a header longer than the first read', async () => {
    const metadata = Array.from({ length: 9 }, (_, i) => [`k${i}`, { type: 8, value: 'x'.repeat(1 << 19) }] as const)
    const gguf = await open(makeGguf({ metadata, tensors: [f32], data: 16 }))
    expect(gguf.metadata.get('k8')).toHaveLength(1 << 19)
    expect(gguf.tensors.get('t')?.bytes).toBe(16)
  }, 20_000)
})

describe('damage', () => {
  it('is found wherever the file is cut', async () => {
    const last = Math.max(...[...(await open(mini)).tensors.values()].map((tensor) => tensor.offset + tensor.bytes))
    for (let length = 0; length < last; length += length < 3000 ? 37 : 997) {
      expect(await errorCode(() => open(mini.subarray(0, length))), `cut at ${length}`).toMatch(
        /^(FILE_TRUNCATED|ABSURD_COUNT)$/,
      )
    }
  })

  const cases: [string, Uint8Array, string][] = [
    ['no bytes', new Uint8Array(), 'FILE_TRUNCATED'],
    ['another magic', makeGguf({ magic: 'GGML' }), 'WRONG_MAGIC'],
    ['version 1', makeGguf({ version: 1 }), 'UNSUPPORTED_VERSION'],
    ['version 4', makeGguf({ version: 4 }), 'UNSUPPORTED_VERSION'],
    ['big endian', makeGguf({ version: 0x0300_0000 }), 'UNSUPPORTED_VERSION'],
    ['too many tensors', makeGguf({ tensorCount: 2n ** 63n }), 'ABSURD_COUNT'],
    ['more tensors than fit', makeGguf({ tensorCount: 100 }), 'ABSURD_COUNT'],
    ['more metadata than fits', makeGguf({ entryCount: 100_000 }), 'ABSURD_COUNT'],
    ['an array without a length', makeGguf({ metadata: [['a', { type: 9, value: 8 }]] }), 'FILE_TRUNCATED'],
    ['a string longer than the file', makeGguf({ metadata: [['a', { type: 8, value: 2n ** 40n }]] }), 'FILE_TRUNCATED'],
    ['a string of 2^60 bytes', makeGguf({ metadata: [['a', { type: 8, value: 2n ** 60n }]] }), 'ABSURD_COUNT'],
    ['an unknown value type', makeGguf({ metadata: [['a', { type: 77, value: 0 }]] }), 'BAD_METADATA'],
    [
      'a key twice',
      makeGguf({
        metadata: [
          ['a', { type: 4, value: 0 }],
          ['a', { type: 4, value: 0 }],
        ],
      }),
      'BAD_METADATA',
    ],
    ['an odd alignment', makeGguf({ metadata: [['general.alignment', { type: 4, value: 48 }]] }), 'BAD_METADATA'],
    ['an unknown tensor type', makeGguf({ tensors: [{ ...f32, type: 4 }], data: 16 }), 'UNKNOWN_TENSOR_TYPE'],
    ['a row of half a block', makeGguf({ tensors: [{ ...f32, dims: [48], type: 8 }], data: 64 }), 'BAD_SHAPE'],
    ['rank 0', makeGguf({ tensors: [{ ...f32, dims: [] }], data: 16 }), 'BAD_SHAPE'],
    ['rank 5', makeGguf({ tensors: [{ ...f32, dims: [1, 1, 1, 1, 1] }], data: 16 }), 'BAD_SHAPE'],
    ['a size of 0', makeGguf({ tensors: [{ ...f32, dims: [0] }], data: 16 }), 'BAD_SHAPE'],
    ['a product over 2^53', makeGguf({ tensors: [{ ...f32, dims: [2 ** 40, 2 ** 40] }], data: 16 }), 'BAD_SHAPE'],
    ['a size over 2^53', makeGguf({ tensors: [{ ...f32, dims: [2n ** 62n] }], data: 16 }), 'ABSURD_COUNT'],
    ['an unaligned offset', makeGguf({ tensors: [{ ...f32, offset: 8 }], data: 64 }), 'BAD_OFFSET'],
    ['an offset outside', makeGguf({ tensors: [{ ...f32, offset: 64 }], data: 64 }), 'FILE_TRUNCATED'],
    ['data cut short', makeGguf({ tensors: [f32], data: 15 }), 'FILE_TRUNCATED'],
    ['a tensor twice', makeGguf({ tensors: [f32, { ...f32, offset: 32 }], data: 64 }), 'DUPLICATE_TENSOR'],
    ['tensors over each other', makeGguf({ tensors: [f32, { ...f32, name: 'u' }], data: 64 }), 'BAD_OFFSET'],
  ]
  it.each(cases)('%s', async (_, bytes, code) => {
    expect(await errorCode(() => open(bytes))).toBe(code)
  })

  it('an array longer than the file', async () => {
    const bytes = makeGguf({ metadata: [['a', { type: 9, value: 2n ** 40n * 256n + 4n }]] })
    expect(await errorCode(() => open(new Uint8Array([...bytes, ...new Uint8Array(8).fill(255)])))).toBe('ABSURD_COUNT')
  })

  it('says what was given, what is allowed and what to do', async () => {
    const error = await open(makeGguf({ version: 9 })).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(ModelFileError)
    expect((error as ModelFileError).message).toBe(
      'made-up.gguf, GGUF version 9; allowed: GGUF version 2 or 3, little endian. Convert the model again with a recent converter.',
    )
  })
})

describe('random damage', () => {
  it('is a typed error or goes unnoticed, and never runs away', async () => {
    // A header of 12 KB; flips of one byte in it, by a fixed sequence.
    let state = 12345
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return state % below
    }
    const codes = new Set<string | undefined>()
    for (let round = 0; round < 1500; round++) {
      const bytes = mini.slice()
      bytes[random(4000)] = random(256)
      codes.add(await errorCode(() => open(bytes)))
    }
    expect(codes.size).toBeGreaterThan(5)
  })
})
