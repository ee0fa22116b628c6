/** The committed grids: points that round N(0, I) with the least mean squared error, made by tools/higgs-grids. */
import type { HostTensor } from '@kvloom/core'
import d1n2 from '../grids/d1n2.json'
import d1n4 from '../grids/d1n4.json'
import d1n8 from '../grids/d1n8.json'
import d1n16 from '../grids/d1n16.json'
import d1n256 from '../grids/d1n256.json'
import d2n16 from '../grids/d2n16.json'
import d2n64 from '../grids/d2n64.json'
import d2n256 from '../grids/d2n256.json'
import d4n256 from '../grids/d4n256.json'
import d6n4096 from '../grids/d6n4096.json'
import d8n256 from '../grids/d8n256.json'

interface GridFile {
  readonly points: number
  readonly dimension: number
  /** base64 of little-endian float32 `[points, dimension]`. */
  readonly values: string
}

const FILES: Readonly<Record<string, GridFile>> = {
  d1n2,
  d1n4,
  d1n8,
  d1n16,
  d1n256,
  d2n16,
  d2n64,
  d2n256,
  d4n256,
  d6n4096,
  d8n256,
}

/** Names of the grids, `d<dimension>n<points>`. */
export const gridNames: readonly string[] = Object.keys(FILES)

/** Name of the grid of `bits` per value in `vector` dimensions; it need not exist. */
export const gridName = (bits: number, vector: number): string => `d${vector}n${2 ** (bits * vector)}`

/** Decoded once each and always the same array, so that a cache uploads it once for all its layers. */
const decoded = new Map<string, HostTensor>()

/** The points `[n, d]` of a grid, or undefined when there is none of this name. */
export function grid(name: string): HostTensor | undefined {
  const file = Object.hasOwn(FILES, name) ? FILES[name] : undefined
  const known = decoded.get(name)
  if (known || !file) return known
  const bytes = Uint8Array.from(atob(file.values), (letter) => letter.charCodeAt(0))
  const numbers = new DataView(bytes.buffer)
  const values = Float32Array.from({ length: file.points * file.dimension }, (_, i) => numbers.getFloat32(i * 4, true))
  const table: HostTensor = { shape: [file.points, file.dimension], values }
  decoded.set(name, table)
  return table
}
