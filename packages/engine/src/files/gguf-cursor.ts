// Reads the values of a GGUF header one after the other, checking every length before anything is allocated for it.
import { refuseFile as fail } from '../errors'
import type { ByteSource } from './byte-source'

/** A metadata value. 64-bit integers are numbers while a number holds them exactly. */
export type GgufValue = number | bigint | boolean | string | GgufValue[]

// Limits far above any real model, so that a damaged length cannot make us allocate gigabytes.
const maximumHeaderBytes = 512 << 20
const maximumEntries = 1 << 20
const maximumNesting = 4

/** Thrown when the bytes at hand end but the file goes on. */
export class NeedMore extends Error {
  constructor(readonly bytes: number) {
    super()
  }
}

/** A reader over the first bytes of the file; asks for more by throwing `NeedMore`. */
export class Cursor {
  at = 0
  private readonly view: DataView
  private readonly decoder = new TextDecoder('utf-8', { ignoreBOM: true })

  constructor(
    private readonly source: ByteSource,
    private readonly bytes: Uint8Array,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Moves over `length` bytes. */
  take(length: number, what: string): void {
    const end = this.at + length
    if (end > this.source.size) {
      fail(
        'FILE_TRUNCATED',
        `${this.source.name}, ${what} at byte ${this.at} of a file of ${this.source.size}`,
        'a whole header',
        'The file is cut short; fetch it again.',
      )
    }
    if (end > maximumHeaderBytes)
      fail(
        'ABSURD_COUNT',
        `${this.source.name}, ${what} of ${length} bytes in the header`,
        `a header of at most ${maximumHeaderBytes} bytes`,
      )
    if (end > this.bytes.byteLength) throw new NeedMore(end)
    this.at = end
  }

  u32(what: string): number {
    this.take(4, what)
    return this.view.getUint32(this.at - 4, true)
  }

  /** A u64 that must fit in a number. */
  size(what: string): number {
    this.take(8, what)
    const value = this.view.getBigUint64(this.at - 8, true)
    return value <= BigInt(Number.MAX_SAFE_INTEGER)
      ? Number(value)
      : fail('ABSURD_COUNT', `${this.source.name}, ${what} of ${value}`, 'less than 2^53')
  }

  /** A count of things that take at least `minimumBytes` each. */
  count(what: string, minimumBytes: number): number {
    const value = this.size(`the number of ${what}`)
    if (value > maximumEntries)
      fail('ABSURD_COUNT', `${this.source.name}, ${value} ${what}`, `at most ${maximumEntries}`)
    if (value * minimumBytes > this.source.size)
      fail(
        'ABSURD_COUNT',
        `${this.source.name}, ${value} ${what} in a file of ${this.source.size} bytes`,
        'a count that fits in the file',
      )
    return value
  }

  string(what: string): string {
    const length = this.size(`the length of ${what}`)
    this.take(length, what)
    return this.decoder.decode(this.bytes.subarray(this.at - length, this.at))
  }

  value(type: number, key: string, depth: number): GgufValue {
    const what = `metadata "${key}"`
    if (type === 8) return this.string(what)
    if (type === 9) return this.array(key, depth)
    const width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][type]
    if (width === undefined)
      return fail('BAD_METADATA', `${this.source.name}, ${what} of value type ${type}`, 'value types 0 to 12')
    this.take(width, what)
    const at = this.at - width
    const view = this.view
    switch (type) {
      case 0:
        return view.getUint8(at)
      case 1:
        return view.getInt8(at)
      case 2:
        return view.getUint16(at, true)
      case 3:
        return view.getInt16(at, true)
      case 4:
        return view.getUint32(at, true)
      case 5:
        return view.getInt32(at, true)
      case 6:
        return view.getFloat32(at, true)
      case 7:
        return view.getUint8(at) !== 0
      case 10:
        return narrow(view.getBigUint64(at, true))
      case 11:
        return narrow(view.getBigInt64(at, true))
      default:
        return view.getFloat64(at, true)
    }
  }

  private array(key: string, depth: number): GgufValue[] {
    if (depth >= maximumNesting)
      fail(
        'BAD_METADATA',
        `${this.source.name}, metadata "${key}" nested ${depth + 1} deep`,
        `at most ${maximumNesting}`,
      )
    const type = this.u32(`the element type of "${key}"`)
    const count = this.size(`the length of "${key}"`)
    const smallest = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8][type] ?? 1
    if (this.at + count * smallest > this.source.size) {
      fail(
        'ABSURD_COUNT',
        `${this.source.name}, ${count} elements of metadata "${key}"`,
        `what fits in a file of ${this.source.size} bytes`,
      )
    }
    const values: GgufValue[] = []
    for (let i = 0; i < count; i++) values.push(this.value(type, key, depth + 1))
    return values
  }
}

const narrow = (value: bigint): number | bigint =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= -BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value
