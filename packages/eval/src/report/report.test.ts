import { describe, expect, it } from 'vitest'
import * as format from './format'
import { STYLE } from './html-style'
import { crosses, placeLabels } from './labels'
import { colorOf, shapeOf } from './markers'
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
  const near = ({ dx, dy }: { dx: number; dy: number }): number => Math.hypot(dx, dy)
  it('stand beside lonely points', () => {
    expect(placeLabels([{ x: 100, y: 100, text: '7' }], frame)).toEqual([{ dx: 13, dy: 0 }])
  })
  it('stay inside the frame', () => {
    expect(placeLabels([{ x: 595, y: 100, text: '12' }], frame)[0]?.dx).toBeLessThanOrEqual(0)
  })
  it('keep apart where points crowd, and near their own', () => {
    const points = [100, 103, 106, 109].map((y, i) => ({ x: 300 + i, y, text: `${i + 10}` }))
    const places = placeLabels(points, frame)
    const centres = points.map((p, i) => [p.x + (places[i]?.dx ?? 0), p.y + (places[i]?.dy ?? 0)] as const)
    for (const [i, [x, y]] of centres.entries()) {
      expect(near(places[i] ?? { dx: 99, dy: 0 })).toBeLessThan(30)
      for (const [x2, y2] of centres.slice(i + 1)) expect(Math.abs(x - x2) >= 15 || Math.abs(y - y2) >= 13).toBe(true)
    }
  })
  it('are not crossed by lines', () => {
    const [line] = [{ x1: 0, y1: 100, x2: 600, y2: 100 }]
    const [place] = placeLabels([{ x: 300, y: 100, text: '3' }], frame, line ? [line] : [])
    expect(Math.abs(place?.dy ?? 0)).toBeGreaterThan(6)
    expect(crosses({ left: 0, right: 2, top: 0, bottom: 2 }, { x1: -1, y1: 1, x2: 0.5, y2: 1 })).toBe(true)
    expect(crosses({ left: 0, right: 2, top: 0, bottom: 2 }, { x1: -1, y1: 1, x2: 0.5, y2: 5 })).toBe(false)
    expect(crosses({ left: 0, right: 2, top: 0, bottom: 2 }, { x1: 3, y1: 0, x2: 3, y2: 2 })).toBe(false)
  })
})

describe('marks', () => {
  it('tell 84 rows apart by colour and shape, and twelve by colour alone', () => {
    const places = Array.from({ length: 84 }, (_, i) => i + 1)
    expect(new Set(places.map((p) => `${colorOf(p)} ${shapeOf(p)}`)).size).toBe(84)
    expect(new Set(places.slice(0, 12).map(colorOf)).size).toBe(12)
    for (const place of places) expect(STYLE).toContain(`--${/--([\w-]+)/.exec(colorOf(place))?.[1]}:`)
  })
})
