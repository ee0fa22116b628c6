/** The results of README: read from what was measured, and drawn so that every label can be read. */
import { describe, expect, it } from 'vitest'
import { labelBox, placeLabels } from './places.mjs'
import { readResults, resultBlock, resultsOf } from './results.mjs'
import { resultPlot } from './results-plot.mjs'

const results = readResults()

describe('the table of results', () => {
  it('has the uncompressed model first, then rising bits, with the numbers measured', () => {
    const { uncompressed, compressed } = results
    expect(uncompressed).toMatchObject({ meanKld: 0, top1: 1 })
    const bits = compressed.map((each) => each.bits)
    expect(bits).toEqual([...bits].sort((a, b) => a - b))
    const rows = resultBlock(results, 'plot.svg')
      .split('\n')
      .filter((line) => line.startsWith('| `'))
    expect(rows.length).toBe(1 + compressed.length)
    for (const [i, { composition, perplexity }] of [uncompressed, ...compressed].entries()) {
      expect(rows[i]).toContain(`\`${composition}\``)
      expect(rows[i]).toContain(` ${perplexity.toFixed(2)} `)
    }
  })

  it('says which composition was not measured', () => {
    const plan = { protocol: 'P', tokens: 2048, chunk: 128, scoreFrom: 512 }
    const of = (rows: readonly object[]) => () => resultsOf({ groups: [{ id: 'P', plan }] }, { rows })
    expect(of([])).toThrow(/measurements\.json lacks .+ under protocol P/)
    const elsewhere = { composition: 'coupled-quantization(channels=8, bits=8)', plan: { ...plan, tokens: 1024 } }
    expect(of([elsewhere])).toThrow(/lacks coupled-quantization\(channels=8, bits=8\)/)
  })
})

describe('the plot of results', () => {
  const svg = resultPlot(results)

  it('shows every composition, axes with their units, and both schemes', () => {
    for (const { label } of results.compressed) expect(svg).toContain(`>${label}</text>`)
    for (const text of ['nats, log', 'bits per value', '>0.001</text>', 'prefers-color-scheme: dark']) {
      expect(svg).toContain(text)
    }
    expect(svg).not.toMatch(/NaN|undefined|Infinity/)
  })

  it('moves a point whose measurement changed', () => {
    const [first, ...others] = results.compressed
    expect(resultPlot({ ...results, compressed: [{ ...first!, meanKld: first!.meanKld * 1.1 }, ...others] })).not.toBe(
      svg,
    )
  })
})

describe('labels', () => {
  const frame = { left: 0, right: 400, top: 0, bottom: 400 }

  it('cover no label and no line', () => {
    const points = [0, 12, 24].map((away) => ({ x: 200 + away, y: 200 + away, text: `label ${away}` }))
    const line = [
      { x: 212, y: 212 },
      { x: 380, y: 212 },
    ] as const
    const boxes = placeLabels(points, frame, [line]).map((place, i) => labelBox(points[i]!, place))
    for (const [i, a] of boxes.entries()) {
      expect(a.right < 212 || a.bottom <= 212 || a.top >= 212).toBe(true)
      for (const b of boxes.slice(i + 1)) {
        expect(a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top).toBe(true)
      }
    }
  })

  it('without a free place are named', () => {
    const tight = { left: 0, right: 30, top: 0, bottom: 30 }
    expect(() => placeLabels([{ x: 15, y: 15, text: 'too long' }], tight, [])).toThrow(/'too long'/)
  })
})
