/** Colour and shape of every row. Twelve colours and seven shapes go round on their own, so 84 rows differ, most of them in both. */

/** Colours defined by the page (`--series-0` and so on). */
export const COLORS = 12

/** Names of shapes as Observable Plot draws them. */
const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'cross', 'star', 'wye'] as const
export type Shape = (typeof SHAPES)[number]

/** CSS colour of a place in the table; the uncompressed run (place 0) is grey. */
export const colorOf = (place: number): string =>
  place === 0 ? 'var(--ink-soft)' : `var(--series-${(place - 1) % COLORS})`

export const shapeOf = (place: number): Shape =>
  place === 0 ? 'circle' : (SHAPES[(place - 1) % SHAPES.length] ?? 'circle')

/** Dash of a line: another one whenever the colours begin again. */
export const dashOf = (place: number): string =>
  place === 0 ? '2 3' : (['none', '7 3', '2 2', '9 3 2 3'][Math.floor((place - 1) / COLORS) % 4] ?? 'none')

/** Outlines in a square of 12 around the origin, of about the same area. */
const OUTLINES: Readonly<Record<Shape, string>> = {
  circle: 'M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z',
  square: 'M-4,-4H4V4H-4Z',
  triangle: 'M0,-5.2L5.2,3.8H-5.2Z',
  diamond: 'M0,-6L4,0L0,6L-4,0Z',
  cross: 'M-5.4,-1.8H-1.8V-5.4H1.8V-1.8H5.4V1.8H1.8V5.4H-1.8V1.8H-5.4Z',
  star: 'M0,-6L1.4,-1.9L5.7,-1.9L2.2,0.7L3.5,4.9L0,2.3L-3.5,4.9L-2.2,0.7L-5.7,-1.9L-1.4,-1.9Z',
  wye: 'M1.7,1V5.4H-1.7V1L-5.5,-1.2L-3.8,-4.2L0,-2L3.8,-4.2L5.5,-1.2Z',
}

/** The mark of a row for tables and legends. */
export const markerSvg = (place: number): string =>
  `<svg class="mark" viewBox="-6.5 -6.5 13 13" width="13" height="13" aria-hidden="true"><path d="${OUTLINES[shapeOf(place)]}" fill="${colorOf(place)}"/></svg>`
