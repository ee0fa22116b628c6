import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { gaussianError, gaussianGrid, type Matrix } from '../../packages/math/src/index'
import { readFixture } from '../../packages/math/src/testing'
import { root } from '../setup/workspace.mjs'
import { decodeGrid, encodeGrid } from './file.mjs'
import { recipes } from './recipes.mjs'

const authors = readFixture('higgs-grids')
const textOf = (name: string) =>
  readFileSync(join(root, 'packages', 'quantizers', 'higgs', 'grids', `${name}.json`), 'utf8')

/** At most this much worse than the authors' points, on the same samples (d6n4096 is by 0.2 %, the rest are not). The comparison's noise is 0.1 %. */
const TOLERANCE = 0.005
const SAMPLES = { seed: 77, count: 100_000 }

describe.each(Object.entries(recipes))('grid %s', (name, recipe) => {
  const grid = decodeGrid(textOf(name))

  it("is as good for N(0, I) as the authors' points", () => {
    expect([grid.rows, grid.columns]).toEqual([recipe.points, recipe.dimension])
    const theirs = gaussianError(authors(`eden${recipe.dimension}_${recipe.points}`), SAMPLES)
    expect(gaussianError(grid, SAMPLES) / theirs).toBeLessThan(1 + TOLERANCE)
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
