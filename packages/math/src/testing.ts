/** Helpers of this package's tests. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { frobeniusNorm, type Matrix, type MatrixLike, matrix } from './matrix'

/** Largest absolute difference of two matrices of one shape. */
export function largestGap(a: MatrixLike, b: MatrixLike): number {
  if (a.rows !== b.rows || a.columns !== b.columns) return Number.POSITIVE_INFINITY
  let gap = 0
  for (let i = 0; i < a.data.length; i++) gap = Math.max(gap, Math.abs((a.data[i] as number) - (b.data[i] as number)))
  return gap
}

/** ‖a - b‖² / ‖b‖². */
export function relativeSquaredGap(a: MatrixLike, b: MatrixLike): number {
  const gap = matrix(a.rows, a.columns, a.data)
  for (let i = 0; i < gap.data.length; i++) gap.data[i] = (gap.data[i] as number) - (b.data[i] as number)
  return (frobeniusNorm(gap) / frobeniusNorm(b)) ** 2
}

/** Matrices of up to 12 × 12 with entries in ±100 (multiples of 2^-20); some with dependent or zero columns. */
export const matrices: fc.Arbitrary<Matrix> = fc
  .tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), fc.integer({ min: 0, max: 2 }))
  .chain(([rows, columns, kind]) =>
    fc
      .array(
        fc.integer({ min: -100 * 2 ** 20, max: 100 * 2 ** 20 }).map((x) => x / 2 ** 20),
        { minLength: rows * columns, maxLength: rows * columns },
      )
      .map((data) => {
        const out = matrix(rows, columns, data)
        if (kind === 0 || columns < 2) return out
        for (let i = 0; i < rows; i++) {
          out.data[i * columns + 1] = kind === 1 ? 2 * (out.data[i * columns] as number) : 0
        }
        return out
      }),
  )

/** Float tensors of `fixtures/<name>.safetensors` as matrices, rows = all axes but the last. */
export function readFixture(name: string): (tensor: string) => Matrix & { readonly shape: readonly number[] } {
  const file = readFileSync(join(import.meta.dirname, '..', 'fixtures', `${name}.safetensors`))
  const length = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + length))
  return (tensor) => {
    const { dtype, shape, data_offsets: offsets } = header[tensor]
    if (dtype !== 'F32') throw new Error(`${name}:${tensor} is ${dtype}, not F32.`)
    const bytes = Uint8Array.from(file.subarray(8 + length + offsets[0], 8 + length + offsets[1]))
    const columns = shape.at(-1)
    const values = Float64Array.from(new Float32Array(bytes.buffer))
    return { ...matrix(values.length / columns, columns, values), shape }
  }
}
