// The file of a grid: JSON, the points as base64 of little-endian float32, row by row.

/**
 * @param {import('../../packages/math/src/index').Matrix} grid `[points, dimension]`
 * @param {{ recipe: object, judge: object, meanSquaredError: number }} facts
 */
export function encodeGrid(grid, { recipe, judge, meanSquaredError }) {
  const bytes = new DataView(new ArrayBuffer(grid.data.length * 4))
  grid.data.forEach((value, i) => {
    bytes.setFloat32(i * 4, value, true)
  })
  const file = {
    dimension: grid.columns,
    points: grid.rows,
    bitsPerValue: Math.log2(grid.rows) / grid.columns,
    meanSquaredError,
    recipe,
    judge,
    encoding: 'base64 of little-endian float32, [points, dimension]',
    values: Buffer.from(bytes.buffer).toString('base64'),
  }
  return `${JSON.stringify(file, null, 2)}\n`
}

/** @returns {{ rows: number, columns: number, data: Float64Array, meanSquaredError: number }} */
export function decodeGrid(text) {
  const { points, dimension, values, meanSquaredError } = JSON.parse(text)
  const raw = Buffer.from(values, 'base64')
  const data = Float64Array.from({ length: points * dimension }, (_, i) => raw.readFloatLE(i * 4))
  return { rows: points, columns: dimension, data, meanSquaredError }
}
