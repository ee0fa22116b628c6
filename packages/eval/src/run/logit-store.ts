/** Logits of the uncompressed run, kept for every composition that follows: in a temporary file, because they are large (302 MB for 1,536 rows of 49,152). */

import type { FileHandle } from 'node:fs/promises'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EvalOptionError, ReportError } from '../errors'

/** Rows of float32 logits by position. Rows are written once and read in any order. */
export interface LogitStore {
  write(position: number, row: Float32Array): Promise<void>
  /** The returned array is overwritten by the next read. */
  read(position: number): Promise<Float32Array>
  dispose(): Promise<void>
}

/** In memory; for short runs and places without files. */
export class MemoryLogits implements LogitStore {
  private readonly rows = new Map<number, Float32Array>()
  async write(position: number, row: Float32Array): Promise<void> {
    this.rows.set(position, row.slice())
  }
  async read(position: number): Promise<Float32Array> {
    const row = this.rows.get(position)
    if (!row)
      throw new EvalOptionError(
        'logits row',
        position,
        'a row of the uncompressed run',
        'Run the baseline over the same rows first.',
      )
    return row
  }
  async dispose(): Promise<void> {
    this.rows.clear()
  }
}

/** In a temporary file that is removed on dispose. */
export class FileLogits implements LogitStore {
  private readonly offsets = new Map<number, number>()
  private readonly buffer: Float32Array
  private constructor(
    private readonly folder: string,
    private readonly file: FileHandle,
    private readonly width: number,
  ) {
    this.buffer = new Float32Array(width)
  }

  /** @param width numbers per row. @throws ReportError when the temporary folder cannot be written. */
  static async create(width: number): Promise<FileLogits> {
    try {
      const folder = await mkdtemp(join(tmpdir(), 'kvloom-logits-'))
      return new FileLogits(folder, await open(join(folder, 'logits.f32'), 'w+'), width)
    } catch (cause) {
      throw new ReportError(
        'The temporary folder cannot be written.',
        'Free some space or set TMPDIR to a folder with room.',
        { cause },
      )
    }
  }

  async write(position: number, row: Float32Array): Promise<void> {
    const offset = this.offsets.size * this.width * 4
    try {
      await this.file.write(new Uint8Array(row.buffer, row.byteOffset, row.byteLength), 0, row.byteLength, offset)
    } catch (cause) {
      throw new ReportError(
        'The logits of the uncompressed run cannot be kept.',
        'Free some space in the temporary folder, or score fewer tokens.',
        { cause },
      )
    }
    this.offsets.set(position, offset)
  }

  async read(position: number): Promise<Float32Array> {
    const offset = this.offsets.get(position)
    if (offset === undefined)
      throw new EvalOptionError(
        'logits row',
        position,
        'a row of the uncompressed run',
        'Run the baseline over the same rows first.',
      )
    await this.file.read(new Uint8Array(this.buffer.buffer), 0, this.width * 4, offset)
    return this.buffer
  }

  async dispose(): Promise<void> {
    await this.file.close()
    await rm(this.folder, { recursive: true, force: true })
  }
}

/** Rows below this many bytes in all stay in memory. */
const IN_MEMORY_BYTES = 64 * 2 ** 20

/** The store that fits `rows` rows of `width` numbers. */
export const openLogitStore = async (rows: number, width: number): Promise<LogitStore> =>
  rows * width * 4 <= IN_MEMORY_BYTES ? new MemoryLogits() : FileLogits.create(width)
