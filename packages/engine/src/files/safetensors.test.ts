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
    expect(await errorCode(() => encodeSafetensors({ a: { shape: [3], data: new Float32Array(2) } }))).toBe('bad-shape')
    await expect(writeSafetensors(path.join(folder, 'absent', 'a.safetensors'), {})).rejects.toThrow(/ENOENT/)
  })
})

describe('damage', () => {
  const f32 = entry('F32', [1], 0, 4)
  const cases: [string, Uint8Array, string][] = [
    ['no bytes', new Uint8Array(), 'file-truncated'],
    ['a header length of 2^60', made('{}', 0, 2n ** 60n), 'absurd-count'],
    ['a header longer than the file', made('{}', 0, 100n), 'file-truncated'],
    ['no JSON', made('{"a"'), 'bad-header'],
    [
      'no UTF-8',
      (() => {
        const bytes = made('{"a":1}')
        bytes[9] = 255
        return bytes
      })(),
      'bad-header',
    ],
    ['a list', made('[]'), 'bad-header'],
    ['metadata that is no map', made({ __metadata__: 3 }), 'bad-metadata'],
    ['metadata of numbers', made({ __metadata__: { a: 3 } }), 'bad-metadata'],
    ['an entry that is no object', made({ a: 3 }), 'unknown-tensor-type'],
    ['an unknown dtype', made({ a: entry('F12', [1], 0, 4) }, 4), 'unknown-tensor-type'],
    ['a negative size', made({ a: entry('F32', [-1], 0, 4) }, 4), 'bad-shape'],
    ['no shape', made({ a: entry('F32', 'x', 0, 4) }, 4), 'bad-shape'],
    ['a size the range does not hold', made({ a: entry('F32', [2], 0, 4) }, 4), 'bad-shape'],
    ['a range that runs backwards', made({ a: entry('F32', [1], 4, 0) }, 4), 'bad-offset'],
    ['no range', made({ a: { dtype: 'F32', shape: [1] } }, 4), 'bad-offset'],
    ['data cut short', made({ a: f32 }, 3), 'file-truncated'],
    ['bytes left over', made({ a: f32 }, 5), 'bad-offset'],
    ['a hole', made({ a: f32, b: entry('F32', [1], 8, 12) }, 12), 'bad-offset'],
    ['an overlap', made({ a: f32, b: entry('F32', [1], 2, 6) }, 6), 'bad-offset'],
  ]
  it.each(cases)('%s', async (_, bytes, code) => {
    expect(await errorCode(() => open(bytes))).toBe(code)
  })

  it('a tensor that is not there, and a dtype without numbers', async () => {
    const file = await open(made({ a: f32 }, 4))
    expect(await errorCode(() => file.read('b'))).toBe('tensor-missing')
    expect(await errorCode(() => tensorValues('F8_E4M3', new Uint8Array(1)))).toBe('unsupported-tensor-type')
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
    expect(await errorCode(() => file.read('c'))).toBe('tensor-missing')
  })

  it.each([
    ['no weights at all', {}, 'file-missing'],
    ['a missing shard', { 'model.safetensors.index.json': index({ a: '1.safetensors' }) }, 'file-missing'],
    [
      'a tensor the shard has not',
      { '1.safetensors': shard('b'), 'model.safetensors.index.json': index({ a: '1.safetensors' }) },
      'tensor-missing',
    ],
    ['a path out of the folder', { 'model.safetensors.index.json': index({ a: '../1.safetensors' }) }, 'bad-header'],
    ['an index without map', { 'model.safetensors.index.json': {} }, 'bad-header'],
    ['an index that is no JSON', { 'model.safetensors.index.json': new TextEncoder().encode('{') }, 'bad-header'],
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
