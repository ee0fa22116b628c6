/** Plain arrays with a shape. Golden files hold them, and results are compared as such. */
import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { GoldenError } from './errors'

/** Numbers in row-major order. */
export interface NdArray {
  readonly shape: readonly number[]
  readonly data: Float32Array | Int32Array | Uint8Array
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1)

/** Reads a tensor's numbers, and waits for the device to have them. */
export async function fromTensor(x: Tensor): Promise<NdArray> {
  return { shape: [...x.shape], data: (await x.data()).slice() as Float32Array | Int32Array }
}

/** Copies an array into a tensor that the caller owns: float32 from floats, int32 from integers. */
export function toTensor({ shape, data }: NdArray): Tensor {
  return data instanceof Float32Array
    ? tensor(data.slice(), [...shape], 'float32')
    : tensor(Int32Array.from(data), [...shape], 'int32')
}

/** `[a, b, c]` of a flat index. */
export function indexOf(flat: number, shape: readonly number[]): number[] {
  const index: number[] = []
  let rest = flat
  for (const n of [...shape].reverse()) {
    index.unshift(rest % n)
    rest = Math.floor(rest / n)
  }
  return index
}

/** One axis of a numpy slice: the rows it takes, and whether the axis stays. */
interface AxisSlice {
  readonly rows: readonly number[]
  readonly stays: boolean
}

/** Applies a numpy slice such as `:, :128`, `0, ..., -1` or `::2` (basic indexing, no masks, no new axes). */
export function sliceLikeNumpy(array: NdArray, expression: string): NdArray {
  const rank = array.shape.length
  const given = expression.split(',').map((part) => part.trim())
  const dots = given.indexOf('...')
  const missing = rank - (dots < 0 ? given.length : given.length - 1)
  if (missing < 0) throw new GoldenError(`The slice [${expression}] has more axes than [${array.shape.join(', ')}].`)
  const all = Array.from({ length: missing }, () => ':')
  const parts = dots < 0 ? [...given, ...all] : [...given.slice(0, dots), ...all, ...given.slice(dots + 1)]
  const axes = parts.map((part, axis) => axisSlice(part, array.shape[axis] ?? 0, expression))

  const taken = axes.map(({ rows }) => rows.length)
  const strides = array.shape.map((_, axis) => sizeOf(array.shape.slice(axis + 1)))
  const size = sizeOf(taken)
  const data = new (array.data.constructor as new (n: number) => NdArray['data'])(size)
  for (let flat = 0; flat < size; flat++) {
    const index = indexOf(flat, taken)
    const from = index.reduce((sum, i, axis) => sum + (axes[axis]?.rows[i] ?? 0) * (strides[axis] ?? 1), 0)
    data[flat] = array.data[from] ?? Number.NaN
  }
  return { shape: taken.filter((_, axis) => axes[axis]?.stays), data }
}

const INTEGER = /^-?\d+$/
const RANGE = /^(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?$/

function axisSlice(part: string, size: number, expression: string): AxisSlice {
  if (INTEGER.test(part)) {
    const at = Number(part) < 0 ? Number(part) + size : Number(part)
    if (at < 0 || at >= size) throw new GoldenError(`Index ${part} of [${expression}] is outside an axis of ${size}.`)
    return { rows: [at], stays: false }
  }
  const range = RANGE.exec(part)
  if (!range) throw new GoldenError(`The slice [${expression}] is not understood.`)
  const step = range[3] === undefined ? 1 : Number(range[3])
  if (step === 0) throw new GoldenError(`The slice [${expression}] has a step of 0.`)
  const clamp = (text: string | undefined, otherwise: number): number => {
    if (text === undefined) return otherwise
    const at = Number(text) < 0 ? Number(text) + size : Number(text)
    return step > 0 ? Math.min(Math.max(at, 0), size) : Math.min(Math.max(at, -1), size - 1)
  }
  const start = clamp(range[1], step > 0 ? 0 : size - 1)
  const end = clamp(range[2], step > 0 ? size : -1)
  const rows: number[] = []
  for (let at = start; step > 0 ? at < end : at > end; at += step) rows.push(at)
  return { rows, stays: true }
}
