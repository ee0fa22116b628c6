import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { onBackend, withTensors } from '../testing'
import { codebookDecode, codebookEncode } from './index'
import { type CodebookLayout, codebookShapes } from './layout'

interface Case {
  readonly name: string
  readonly vector: number
  readonly entries: number
  readonly rows: number
  readonly channels: number
  readonly x: string
  readonly recon: string
  /** Flat places of codes whose two best candidates are too close to call. */
  readonly ambiguous: readonly number[]
}
interface HiggsCase extends Case {
  readonly group: number
  readonly grid: string
  readonly idx: string
  readonly scale: string
}
interface CoupledCase extends Case {
  readonly codebook: string
  readonly codes: string
}

/** golden/higgs: float32 norms, sums in any order. */
const higgsScaleTolerance = 2e-6
/** golden/higgs: float32 Hadamard sums. */
const higgsReconTolerance = 1e-4

const fixture = <T>(path: string): T =>
  JSON.parse(readFileSync(new URL(`../../fixtures/${path}/codebook.json`, import.meta.url), 'utf8')) as T
const bytesOf = (base64: string): ArrayBuffer => Uint8Array.from(Buffer.from(base64, 'base64')).buffer
const floatsOf = (base64: string) => new Float32Array(bytesOf(base64))
const integersOf = (base64: string) => new Int32Array(bytesOf(base64))

const higgs = fixture<{ grids: Record<string, string>; cases: HiggsCase[] }>('higgs')
const coupled = fixture<{ cases: CoupledCase[] }>('cq')

/** Codes of all rows, unpacked: [rows * units]. */
function unpack(words: ArrayLike<number>, rows: number, units: number, bits: number): number[] {
  const line = Math.ceil((units * bits) / 32)
  return Array.from({ length: rows * units }, (_, i) => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const at = (i % units) * bits + bit
      code |= (((words[Math.floor(i / units) * line + (at >> 5)] ?? 0) >>> (at & 31)) & 1) << bit
    }
    return code
  })
}

/** Rows of `from` channels, zero padded to `to`. */
function padded(values: Float32Array, rows: number, from: number, to: number): Float32Array {
  const output = new Float32Array(rows * to)
  for (let row = 0; row < rows; row++) output.set(values.subarray(row * from, (row + 1) * from), row * to)
  return output
}

describe.each(higgs.cases)(
  'HIGGS golden $name',
  ({ group, vector, entries, grid, rows, channels, x, idx, scale, recon, ambiguous }) => {
    const dim = Math.ceil(channels / group) * group
    const layout: CodebookLayout = {
      kind: 'codebook',
      vector,
      entries,
      tables: 'shared',
      scale: 'group',
      group,
      metadata: 'f32',
      hadamard: group,
    }
    const { units, bits } = codebookShapes('test', layout, 1, rows, dim)

    test.each(['cpu', 'wasm'] as const)(
      'codes are equal, norms and rows within the stated tolerances on %s',
      async (backend) => {
        const [codes, norms, decoded] = await onBackend(backend, () =>
          withTensors(
            [
              { values: padded(floatsOf(x), rows, channels, dim), shape: [1, rows, dim] },
              { values: floatsOf(higgs.grids[grid]!), shape: [entries, vector] },
            ],
            (input, table) => {
              const encoded = codebookEncode(input!, layout, table!)
              return [
                encoded.codes,
                encoded.metadata!,
                codebookDecode(encoded, layout, table!, { heads: 1, rows, dim }),
              ]
            },
          ),
        )
        const expected = integersOf(idx)
        const got = unpack(codes!, rows, units, bits)
        const different = got.flatMap((code, i) => (code === expected[i] ? [] : [i]))
        expect(different.filter((i) => !ambiguous.includes(i))).toEqual([])
        floatsOf(scale).forEach((norm, i) => {
          expect(Math.abs(norms![i]! - norm)).toBeLessThanOrEqual(higgsScaleTolerance * Math.abs(norm))
        })
        const skipped = new Set(different.map((i) => Math.floor(i / (units / (dim / group)))))
        const values = floatsOf(recon)
        values.forEach((value, i) => {
          const at = Math.floor(i / channels) * dim + (i % channels)
          if (!skipped.has(Math.floor(at / group)))
            expect(Math.abs(decoded![at]! - value)).toBeLessThanOrEqual(higgsReconTolerance + 1e-5 * Math.abs(value))
        })
      },
    )
  },
)

describe.each(coupled.cases)(
  'CQ golden $name',
  ({ vector, entries, rows, channels, x, codebook, codes, recon, ambiguous }) => {
    const layout: CodebookLayout = {
      kind: 'codebook',
      vector,
      entries,
      tables: 'channels',
      scale: 'none',
      group: channels,
      hadamard: 0,
    }
    const { units, bits } = codebookShapes('test', layout, 1, rows, channels)

    test.each(['cpu', 'wasm'] as const)('codes and rows are equal on %s', async (backend) => {
      const [packed, decoded] = await onBackend(backend, () =>
        withTensors(
          [
            { values: floatsOf(x), shape: [1, rows, channels] },
            { values: floatsOf(codebook), shape: [1, units, entries, vector] },
          ],
          (input, table) => {
            const encoded = codebookEncode(input!, layout, table!)
            return [encoded.codes, codebookDecode(encoded, layout, table!, { heads: 1, rows, dim: channels })]
          },
        ),
      )
      const expected = integersOf(codes)
      const got = unpack(packed!, rows, units, bits)
      const different = got.flatMap((code, i) => (code === expected[i] ? [] : [i]))
      expect(different.filter((i) => !ambiguous.includes(i))).toEqual([])
      const values = floatsOf(recon)
      const wrong = [...values.keys()].filter(
        (i) =>
          decoded![i] !== values[i] &&
          !different.includes(Math.floor(i / channels) * units + Math.floor((i % channels) / vector)),
      )
      expect(wrong).toEqual([])
    })
  },
)
