// Measured quality against bits, for README: which compositions are shown, and what apps/bench measured of them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { root } from '../setup/workspace.mjs'
import { table } from './tables.mjs'

const UNCOMPRESSED = 'none(store="f32")'
/** Families of compositions that differ in their bits alone; the plot joins their points, and labels each with its name. */
const FAMILIES = {
  CQ: {
    'CQ-8c8b': 'coupled-quantization(channels=8, bits=8)',
    'CQ-4c8b': 'coupled-quantization(channels=4, bits=8)',
  },
  HIGGS: {
    'HIGGS-2': 'higgs(bits=2, group=64)',
    'HIGGS-3': 'higgs(bits=3, group=64)',
    'HIGGS-4': 'higgs(bits=4, group=64)',
  },
  KIVI: {
    'KIVI-2': 'kivi(bits=2, residual=32)',
    'KIVI-3': 'kivi(bits=3, residual=32)',
    'KIVI-4': 'kivi(bits=4, residual=32)',
  },
  'AQUA-KV': {
    'AQUA-KV-2': 'aqua-kv(bits=2, group=64)',
    'AQUA-KV-3': 'aqua-kv(bits=3, group=64)',
    'AQUA-KV-4': 'aqua-kv(bits=4, group=64)',
  },
  ggml: {
    'ggml q4_0': 'block-formats(format=q4_0)',
    'ggml q8_0': 'block-formats(format=q8_0)',
  },
  'KVzip + q8_0': {
    'KVzip-27 % + q8_0': 'kvzip(keep=0.27, every=512, prefix=24)+block-formats(format=q8_0)',
    'KVzip-40 % + q8_0': 'kvzip(keep=0.4, every=512, prefix=24)+block-formats(format=q8_0)',
    'KVzip-52 % + q8_0': 'kvzip(keep=0.52, every=512, prefix=24)+block-formats(format=q8_0)',
  },
}

/**
 * @typedef {object} Result
 * @property {string} composition
 * @property {number} bits held per key or value number of a token, every byte of the cache counted
 * @property {number} perplexity
 * @property {number} meanKld in nats, to the uncompressed model
 * @property {number} top1 share of tokens for which the uncompressed model's first choice stays the first
 */

/**
 * @typedef {object} Results
 * @property {{ tokens: number, chunk: number, scoreFrom: number }} plan
 * @property {Result} uncompressed
 * @property {readonly (Result & { family: string, label: string })[]} compressed by rising bits
 */

/** @returns {Results} from the files of apps/bench */
export function readResults() {
  const read = (name) => JSON.parse(readFileSync(join(root, 'apps', 'bench', name), 'utf8'))
  return resultsOf(read('fixtures/reference.json'), read('results/measurements.json'))
}

/**
 * Picks what is shown out of all measurements.
 * @throws {Error} that names the composition which was not measured under protocol P
 * @returns {Results}
 */
export function resultsOf({ groups }, { rows }) {
  const plan = groups.find(({ id }) => id === 'P')?.plan
  if (!plan) throw new Error('apps/bench/fixtures/reference.json has no group P')
  const measured = (composition) => {
    const row = rows.find((each) => each.composition === composition && isDeepStrictEqual(each.plan, plan))
    if (!row) throw new Error(`apps/bench/results/measurements.json lacks ${composition} under protocol P`)
    const { perplexity, meanKld, top1, footprint } = row
    return { composition, bits: footprint.residentBits, perplexity, meanKld, top1 }
  }
  const compressed = Object.entries(FAMILIES).flatMap(([family, labels]) =>
    Object.entries(labels).map(([label, composition]) => ({ family, label, ...measured(composition) })),
  )
  return { plan, uncompressed: measured(UNCOMPRESSED), compressed: compressed.sort((a, b) => a.bits - b.bits) }
}

/** What was measured, in one line; the plot says it too. */
export const settingOf = ({ plan }) =>
  `SmolLM2-135M-Instruct, ${plan.tokens} tokens of WikiText-2 in chunks of ${plan.chunk}`

/** Four digits, also of numbers that would be zero with so many places. */
const kldText = (x) => (x > 0 && x < 0.001 ? x.toExponential(1) : x.toFixed(4))

/** One line per composition: README. */
export function resultTable({ uncompressed, compressed }) {
  const rows = [uncompressed, ...compressed].map(({ composition, bits, perplexity, meanKld, top1 }) => [
    `\`${composition}\``,
    bits.toFixed(2),
    perplexity.toFixed(2),
    kldText(meanKld),
    `${(100 * top1).toFixed(1)} %`,
  ])
  return table(['composition', 'bits per value', 'perplexity', 'mean KLD (nats)', 'top-1'], rows)
}

/** The table, the plot, and how both were measured. */
export function resultBlock(results, plot) {
  const { plan } = results
  return [
    `![Bits per value held against the mean KL divergence from the uncompressed model, a point per composition](${plot})`,
    resultTable(results),
    [
      `Measured under protocol P: ${settingOf(results)}, each read over a past that is`,
      `compressed already, and scored from token ${plan.scoreFrom} on; bits are all that the cache holds per key or value number (f16 is 16),`,
      'without tables that all caches of a model share; KVzip has just evicted when they are counted. `npm run docs:tables` remakes table and plot from what',
      '`npm run -s pnpm -- --filter @kvloom/bench reference` and `npm run -s pnpm -- --filter @kvloom/bench same-bits` measured.',
      '[Reference numbers](docs/reference-numbers.md) has every method, beside what its reference implementation gives.',
    ].join('\n'),
  ].join('\n\n')
}
