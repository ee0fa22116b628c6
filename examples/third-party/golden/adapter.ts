/** Cases of long values: scores, and what a cache keeps. */
import {
  type CaseAdapter,
  compareNamed,
  keptByCache,
  modelOf,
  numberOption,
  rowsOf,
  scorerOf,
  scoresOf,
} from '@kvloom/golden'
import { longValues } from '../src/index.js'

export const adapter: CaseAdapter = {
  method: 'long-values',
  async run(golden) {
    const rows = await rowsOf(golden)
    const compressor = longValues({ keep: numberOption(golden, 'keep') })
    const scores = await scoresOf(scorerOf(compressor, modelOf(rows)), rows)
    return { tensors: await compareNamed(golden, { scores, kept: await keptByCache(compressor, rows) }) }
  },
}
