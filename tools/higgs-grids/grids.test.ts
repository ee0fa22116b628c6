import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { gaussianError, gaussianGrid, type Matrix } from '../../packages/math/src/index'
import { readFixture } from '../../packages/math/src/testing'
import { root } from '../setup/workspace.mjs'
import { decodeGrid, encodeGrid } from './file.mjs'
import { recipes } from './recipes.mjs'

const authors = readFixture('higgs-grids')
/** The grids that the authors of AQUA-KV ship and this project compares with; theirs of 8 dimensions has 65,536 points (2 MB). */
const PUBLISHED = new Set(['eden2_16', 'eden2_64', 'eden2_256', 'eden4_256', 'eden6_4096'])
const textOf = (name: string) =>
  readFileSync(join(root, 'packages', 'quantizers', 'higgs', 'grids', `${name}.json`), 'utf8')

/** At most this much worse than the authors' points, on the same samples (d6n4096 is by 0.2 %, the rest are not). The comparison's noise is 0.1 %. */
const TOLERANCE = 0.005
const SAMPLES = { seed: 77, count: 100_000 }

/** Exact mean squared errors of the Lloyd-Max quantizers of N(0, 1) by levels (Max 1960, table I; 256: Panter and Dite's limit, which is 1 % high). */
const LLOYD_MAX: Readonly<Record<number, number>> = {
  2: 0.3634,
  4: 0.1175,
  8: 0.03454,
  16: 0.009497,
  256: (Math.sqrt(3) * Math.PI) / 2 / 256 ** 2,
}

describe.each(Object.entries(recipes))('grid %s', (name, recipe) => {
  const grid = decodeGrid(textOf(name))

  const theirs = `eden${recipe.dimension}_${recipe.points}`
  const isPublished = PUBLISHED.has(theirs)

  it('has the size of its name', () => {
    expect([grid.rows, grid.columns]).toEqual([recipe.points, recipe.dimension])
  })

  it.runIf(isPublished)("is as good for N(0, I) as the authors' points", () => {
    expect(gaussianError(grid, SAMPLES) / gaussianError(authors(theirs), SAMPLES)).toBeLessThan(1 + TOLERANCE)
  })

  it.runIf(recipe.dimension === 1)('is the Lloyd-Max quantizer of N(0, 1)', () => {
    const exact = LLOYD_MAX[recipe.points] ?? Number.NaN
    // 100,000 samples of an error whose spread is about its mean.
    expect(Math.abs(gaussianError(grid, SAMPLES) / exact - 1)).toBeLessThan(0.015)
  })

  it.runIf(!isPublished && recipe.dimension > 1)('lies between rounding value by value and what is possible', () => {
    const bits = Math.log2(recipe.points) / recipe.dimension
    const error = gaussianError(grid, SAMPLES)
    expect(error).toBeGreaterThan(4 ** -bits) // Shannon's bound
    expect(error).toBeLessThan(0.9 * (LLOYD_MAX[2 ** bits] ?? 0))
  })

  it('says how it was made and what it reaches', () => {
    const facts = JSON.parse(textOf(name))
    expect(facts.recipe).toEqual(recipe)
    expect(facts.meanSquaredError / gaussianError(grid, SAMPLES)).toBeCloseTo(1, 1)
    expect(encodeGrid(grid, facts)).toBe(textOf(name))
  })
})

describe('the generator', () => {
  it('gives the same bytes for the same recipe', () => {
    const recipe = { dimension: 2, points: 16, seed: 1, batches: 50, samplesPerPoint: 300, iterations: 20 }
    const bytes = (grid: Matrix) => encodeGrid(grid, { recipe, judge: {}, meanSquaredError: 0 })
    const text = bytes(gaussianGrid(recipe))
    expect(bytes(gaussianGrid(recipe))).toBe(text)
    expect(JSON.parse(text).values).toMatchInlineSnapshot(
      `"Oafyvze0QT+w9du/pI82v4dadb/gbZ097l1kv6Dw8j9RGTS/yb1Evxd7M79mrPi/vgEev5OOXj+bPze9DHRdvWDpaz06RYW/+H6ZPgx8Vj9Nit0+NqXwP7evWD/9KyG/Y/5sPynXWT4HE4E/R2jdvzsJxD95/Iw/SHD6P6ujwb4="`,
    )
  })
})
