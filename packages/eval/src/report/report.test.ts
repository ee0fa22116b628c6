import { describe, expect, it } from 'vitest'
import * as format from './format'
import { placeLabels } from './labels'
import { frontier } from './plots'

describe('numbers', () => {
  it('read well', () => {
    expect(format.number(12.40783)).toBe('12.41')
    expect(format.number(0.000012)).toBe('1.2e-5')
    expect(format.number(Number.NaN)).toBe('–')
    expect(format.signedPercent(-0.0001, 1)).toBe('±0.0 %')
    expect(format.signedPercent(-0.25)).toBe('−25 %')
    expect(format.bytes(1536)).toBe('1.50 KiB')
    expect(format.bytes(7)).toBe('7 B')
  })
})

describe('the frontier', () => {
  it('holds what no other point beats in both', () => {
    const points = [
      { x: 16, y: 0.001 },
      { x: 4, y: 0.1 },
      { x: 8, y: 0.2 },
      { x: 2, y: 0.5 },
      { x: 2, y: 0.6 },
    ]
    expect(frontier(points)).toEqual([
      { x: 2, y: 0.5 },
      { x: 4, y: 0.1 },
      { x: 16, y: 0.001 },
    ])
  })
})

describe('labels', () => {
  const frame = { left: 0, right: 600, top: 0, bottom: 400 }
  it('stand beside lonely points', () => {
    expect(placeLabels([{ x: 100, y: 100, text: 'alone' }], frame)).toEqual([{ dx: 11, dy: 0, anchor: 'start' }])
  })
  it('stay inside the frame', () => {
    expect(placeLabels([{ x: 590, y: 100, text: 'at the right' }], frame)[0]?.anchor).toBe('end')
  })
  it('keep apart where points crowd', () => {
    const places = placeLabels(
      [100, 103, 106].map((y) => ({ x: 300, y, text: 'a long enough name' })),
      frame,
    )
    expect(new Set(places.map((p) => `${p.dx} ${p.dy} ${p.anchor}`)).size).toBe(3)
  })
})
