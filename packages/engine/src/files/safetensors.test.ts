import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { bytesSource, diskFolder } from './byte-source'
import { openSafetensors, openSafetensorsFolder, readSafetensors, tensorValues } from './safetensors'
import { encodeSafetensors, writeSafetensors } from './safetensors-write'
import { errorCode } from './testing'

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-safetensors-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))

/** A file with this header text (or object) and so many data bytes. */
function made(header: string | object, data = 0, length?: bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header))
  const out = new Uint8Array(8 + text.length + data)
  new DataView(out.buffer).setBigUint64(0, length ?? BigInt(text.length), true)
  out.set(text, 8)
  return out
}
const entry = (dtype: string, shape: unknown, begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})
const open = (bytes: Uint8Array) => openSafetensors(bytesSource(bytes, 'made-up.safetensors'))

describe('round trip', () => {
  const tensors = {
    half: { shape: [3], data: Uint16Array.of(0x3c00, 0xc000, 0x0001), dtype: 'F16' as const },
    brain: { shape: [2], data: Uint16Array.of(0x3f80, 0xc000), dtype: 'BF16' as const },
    single: { shape: [2, 1], data: Float32Array.of(0.1, -3) },
    ids: { shape: [2], data: Int32Array.of(-1, 2 ** 31 - 1) },
    bytes: { shape: [3], data: Uint8Array.of(0, 1, 255) },
    big: { shape: [1], data: BigInt64Array.of(-5n) },
    scalar: { shape: [], data: Float64Array.of(2 / 3) },
    empty: { shape: [0, 4], data: new Float32Array() },
    view: { shape: [2], data: Float32Array.of(9, 8, 7).subarray(1) },
  }

  it('writes atomically and reads back every dtype', async () => {
    const file = path.join(folder, 'all.safetensors')
    await writeSafetensors(file, tensors, { seed: '7' })
    await writeSafetensors(file, tensors, { seed: '7' })
    expect(fs.readdirSync(folder)).toEqual(['all.safetensors'])
    const loaded = await readSafetensors(file)
    expect(loaded.get('half')).toEqual({ dtype: 'F16', shape: [3], data: Float32Array.of(1, -2, 2 ** -24) })
    expect(loaded.get('brain')?.data).toEqual(Float32Array.of(1, -2))
    expect(loaded.get('view')?.data).toEqual(Float32Array.of(8, 7))
    for (const name of ['single', 'ids', 'bytes', 'big', 'scalar', 'empty'] as const)
      expect(loaded.get(name)?.data).toEqual(tensors[name].data)
    const opened = await open(new Uint8Array(fs.readFileSync(file)))
    expect([...opened.metadata]).toEqual([['seed', '7']])
    for (const { offset, dtype } of opened.tensors.values())
      if (dtype === 'F32' || dtype === 'I64') expect(offset % 4).toBe(0)
  })

  it('is deterministic', () => {
    const reversed = Object.fromEntries(Object.entries(tensors).reverse())
    expect(encodeSafetensors(reversed)).toEqual(encodeSafetensors(tensors))
  })

  it('refuses a shape that does not fit, and leaves nothing behind when it cannot write', async () => {
    expect(await errorCode(() => encodeSafetensors({ a: { shape: [3], data: new Float32Array(2) } }))).toBe('BAD_SHAPE')
    await expect(writeSafetensors(path.join(folder, 'absent', 'a.safetensors'), {})).rejects.toThrow(/ENOENT/)
  })
})

describe('damage', () => {
  const f32 = entry('F32', [1], 0, 4)
  const cases: [string, Uint8Array, string][] = [
    ['no bytes', new Uint8Array(), 'FILE_TRUNCATED'],
    ['a header length of 2^60', made('{}', 0, 2n ** 60n), 'ABSURD_COUNT'],
    ['a header longer than the file', made('{}', 0, 100n), 'FILE_TRUNCATED'],
    ['no JSON', made('{"a"'), 'BAD_HEADER'],
    [
      'no UTF-8',
      (() => {
        const bytes = made('{"a":1}')
        bytes[9] = 255
        return bytes
      })(),
      'BAD_HEADER',
    ],
    ['a list', made('[]'), 'BAD_HEADER'],
    ['metadata that is no map', made({ __metadata__: 3 }), 'BAD_METADATA'],
    ['metadata of numbers', made({ __metadata__: { a: 3 } }), 'BAD_METADATA'],
    ['an entry that is no object', made({ a: 3 }), 'UNKNOWN_TENSOR_TYPE'],
    ['an unknown dtype', made({ a: entry('F12', [1], 0, 4) }, 4), 'UNKNOWN_TENSOR_TYPE'],
    ['a negative size', made({ a: entry('F32', [-1], 0, 4) }, 4), 'BAD_SHAPE'],
    ['no shape', made({ a: entry('F32', 'x', 0, 4) }, 4), 'BAD_SHAPE'],
    ['a size the range does not hold', made({ a: entry('F32', [2], 0, 4) }, 4), 'BAD_SHAPE'],
    ['a range that runs backwards', made({ a: entry('F32', [1], 4, 0) }, 4), 'BAD_OFFSET'],
    ['no range', made({ a: { dtype: 'F32', shape: [1] } }, 4), 'BAD_OFFSET'],
    ['data cut short', made({ a: f32 }, 3), 'FILE_TRUNCATED'],
    ['bytes left over', made({ a: f32 }, 5), 'BAD_OFFSET'],
    ['a hole', made({ a: f32, b: entry('F32', [1], 8, 12) }, 12), 'BAD_OFFSET'],
    ['an overlap', made({ a: f32, b: entry('F32', [1], 2, 6) }, 6), 'BAD_OFFSET'],
  ]
  it.each(cases)('%s', async (_, bytes, code) => {
    expect(await errorCode(() => open(bytes))).toBe(code)
  })

  it('a tensor that is not there, and a dtype without numbers', async () => {
    const file = await open(made({ a: f32 }, 4))
    expect(await errorCode(() => file.read('b'))).toBe('TENSOR_MISSING')
    expect(await errorCode(() => tensorValues('F8_E4M3', new Uint8Array(1)))).toBe('UNSUPPORTED_TENSOR_TYPE')
  })
})

describe('shards', () => {
  const shard = (name: string) =>
    encodeSafetensors({ [name]: { shape: [1], data: Float32Array.of(name.charCodeAt(0)) } })
  const make = (name: string, files: Record<string, Uint8Array | object>) => {
    const place = path.join(folder, name)
    fs.mkdirSync(place)
    for (const [file, value] of Object.entries(files))
      fs.writeFileSync(path.join(place, file), value instanceof Uint8Array ? value : JSON.stringify(value))
    return diskFolder(place)
  }
  const index = (weight_map: unknown) => ({ weight_map })

  it('are read as one', async () => {
    const file = await openSafetensorsFolder(
      make('good', {
        '1.safetensors': shard('a'),
        '2.safetensors': shard('b'),
        'model.safetensors.index.json': index({ a: '1.safetensors', b: '2.safetensors' }),
      }),
    )
    expect(tensorValues('F32', await file.read('b'))).toEqual(Float32Array.of(98))
    expect(await errorCode(() => file.read('c'))).toBe('TENSOR_MISSING')
  })

  it.each([
    ['no weights at all', {}, 'FILE_MISSING'],
    ['a missing shard', { 'model.safetensors.index.json': index({ a: '1.safetensors' }) }, 'FILE_MISSING'],
    [
      'a tensor the shard has not',
      { '1.safetensors': shard('b'), 'model.safetensors.index.json': index({ a: '1.safetensors' }) },
      'TENSOR_MISSING',
    ],
    ['a path out of the folder', { 'model.safetensors.index.json': index({ a: '../1.safetensors' }) }, 'BAD_HEADER'],
    ['an index without map', { 'model.safetensors.index.json': {} }, 'BAD_HEADER'],
    ['an index that is no JSON', { 'model.safetensors.index.json': new TextEncoder().encode('{') }, 'BAD_HEADER'],
  ] as [string, Record<string, Uint8Array | object>, string][])('%s', async (name, files, code) => {
    expect(await errorCode(() => openSafetensorsFolder(make(name, files)))).toBe(code)
  })
})

describe('random damage', () => {
  it('is a typed error or goes unnoticed', async () => {
    let state = 54321
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return state % below
    }
    const whole = encodeSafetensors(
      { a: { shape: [2, 3], data: new Float32Array(6) }, b: { shape: [4], data: new Int32Array(4) } },
      { k: 'v' },
    )
    for (let round = 0; round < 1500; round++) {
      const bytes = whole.slice()
      bytes[random(160)] = random(256)
      await errorCode(() => open(bytes))
    }
  })
})
