// Makes the grids of packages/quantizers/higgs/grids with @kvloom/math (built: `npm run build`). Takes minutes.
//
//   node tools/higgs-grids/run.mjs [NAME…]           write them, all or those named
//   node tools/higgs-grids/run.mjs --check [NAME…]   make them again and fail where a byte differs
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gaussianError, gaussianGrid } from '../../packages/math/dist/index.js'
import { root } from '../setup/workspace.mjs'
import { encodeGrid } from './file.mjs'
import { JUDGE, recipes } from './recipes.mjs'

const folder = join(root, 'packages', 'quantizers', 'higgs', 'grids')
const wanted = process.argv.slice(2).filter((argument) => argument !== '--check')
const check = process.argv.includes('--check')
const unknown = wanted.filter((name) => !(name in recipes))
if (unknown.length > 0) {
  process.stderr.write(`higgs-grids: no recipe ${unknown.join(', ')}; there are ${Object.keys(recipes).join(', ')}.\n`)
  process.exit(1)
}

mkdirSync(folder, { recursive: true })
for (const [name, recipe] of Object.entries(recipes)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const begin = performance.now()
  const grid = gaussianGrid(recipe)
  // Stored as float32, judged as stored.
  const stored = { ...grid, data: Float64Array.from(Float32Array.from(grid.data)) }
  const meanSquaredError = gaussianError(stored, JUDGE)
  const text = encodeGrid(stored, { recipe, judge: JUDGE, meanSquaredError })
  const path = join(folder, `${name}.json`)
  const seconds = ((performance.now() - begin) / 1000).toFixed(0)
  if (!check) writeFileSync(path, text)
  const same = readFileSync(path, 'utf8').replaceAll('\r', '') === text
  if (!same) process.exitCode = 1
  process.stdout.write(`${name}: error ${meanSquaredError}, ${seconds} s, ${same ? 'as committed' : 'DIFFERS'}\n`)
}
