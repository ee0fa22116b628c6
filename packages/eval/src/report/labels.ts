/** Puts a label beside each point so that labels cover neither each other nor a point: a few rounds over a ring of places. */

export interface LabelPoint {
  readonly x: number
  readonly y: number
  readonly text: string
  /** x of a second mark of the same point. */
  readonly alsoAt?: number
}
export interface LabelPlace {
  readonly dx: number
  readonly dy: number
  readonly anchor: 'start' | 'middle' | 'end'
}
interface Box {
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}

/** Mean width of a letter and height of a line at 12 px, with some air. */
const LETTER = 6.7
const LINE = 17
const DOT = 7
/** Rounds in which every label may move once; more change nothing for a few dozen points. */
const ROUNDS = 4
/** Distance costs a little, so that a label stays near its point where it can. */
const FAR = 1.5

/** Beside first, then above and below, further and further. */
const CANDIDATES: readonly LabelPlace[] = [
  { dx: 11, dy: 0, anchor: 'start' },
  { dx: -11, dy: 0, anchor: 'end' },
  ...[-16, 17, -30, 31, -46, 47, -62, 63].flatMap((dy): LabelPlace[] => [
    { dx: 0, dy, anchor: 'middle' },
    { dx: 6, dy, anchor: 'start' },
    { dx: -6, dy, anchor: 'end' },
  ]),
]

/** One place per point, in the order of the points; `frame` is where labels may be, in pixels. */
export function placeLabels(points: readonly LabelPoint[], frame: Box): readonly LabelPlace[] {
  const marks = points.map((p) => box(Math.min(p.x, p.alsoAt ?? p.x), Math.max(p.x, p.alsoAt ?? p.x), p.y, DOT))
  const places: LabelPlace[] = points.map(() => CANDIDATES[0] as LabelPlace)
  for (let round = 0; round < ROUNDS; round++)
    for (const [own, point] of points.entries()) {
      const others = points.flatMap((p, i) => (i === own ? [] : [labelBox(p, places[i] as LabelPlace)]))
      const cost = (place: LabelPlace): number => {
        const label = labelBox(point, place)
        const labels = others.reduce((sum, other) => sum + overlap(label, other), 0)
        const covered = marks.reduce((sum, mark) => sum + overlap(label, mark), 0)
        return labels * 2 + covered * 3 + outside(label, frame) * 4 + FAR * Math.hypot(place.dx, place.dy)
      }
      places[own] = CANDIDATES.reduce((a, b) => (cost(b) < cost(a) ? b : a))
    }
  return places
}

const box = (left: number, right: number, y: number, half: number): Box => ({
  left: left - half,
  right: right + half,
  top: y - half,
  bottom: y + half,
})

function labelBox(point: LabelPoint, { dx, dy, anchor }: LabelPlace): Box {
  const width = point.text.length * LETTER
  const left = point.x + dx - (anchor === 'start' ? 0 : anchor === 'end' ? width : width / 2)
  return { left, right: left + width, top: point.y + dy - LINE / 2, bottom: point.y + dy + LINE / 2 }
}

const overlap = (a: Box, b: Box): number =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top))

/** Area of a label outside the frame. */
const outside = (label: Box, frame: Box): number =>
  (label.right - label.left) * (label.bottom - label.top) - overlap(label, frame)
