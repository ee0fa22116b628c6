/** Puts a short label beside each point so that it covers neither labels nor points nor lines: a few rounds over a ring of near places. */

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
}
/** A straight piece of a line, in pixels. */
export interface Segment {
  readonly x1: number
  readonly y1: number
  readonly x2: number
  readonly y2: number
}
interface Box {
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}

/** Mean width of a digit and height of a line at 12 px, with some air. */
const LETTER = 7.5
const LINE = 13
const DOT = 6
/** Rounds in which every label may move once; more change nothing for a few dozen points. */
const ROUNDS = 4
/** Distance costs a little, so that a label stays near its point where it can. */
const FAR = 3
/** A line through a label costs as much as this area of another label. */
const CROSSED = 120

/** Rings around a point, near ones first; the farthest is still nearer to its own point than a label is wide. */
const CANDIDATES: readonly LabelPlace[] = [13, 17, 22, 28].flatMap((radius) =>
  Array.from({ length: 12 }, (_, i): LabelPlace => {
    const angle = (i / 12) * 2 * Math.PI
    return { dx: Math.round(radius * Math.cos(angle)), dy: Math.round(radius * Math.sin(angle)) + 0 }
  }),
)

/** One place per point (centre of its label), in the order of the points; `frame` is where labels may be, in pixels. */
export function placeLabels(
  points: readonly LabelPoint[],
  frame: Box,
  lines: readonly Segment[] = [],
): readonly LabelPlace[] {
  const marks = points.flatMap(({ x, y, alsoAt = x }) => [box(x, y, DOT), box(alsoAt, y, DOT)])
  const links = points.flatMap(({ x, y, alsoAt }): Segment[] =>
    alsoAt === undefined ? [] : [{ x1: x, y1: y, x2: alsoAt, y2: y }],
  )
  const places: LabelPlace[] = points.map(() => CANDIDATES[0] as LabelPlace)
  for (let round = 0; round < ROUNDS; round++)
    for (const [own, point] of points.entries()) {
      const others = points.flatMap((p, i) => (i === own ? [] : [labelBox(p, places[i] as LabelPlace)]))
      const cost = (place: LabelPlace): number => {
        const label = labelBox(point, place)
        const labels = others.reduce((sum, other) => sum + overlap(label, other), 0)
        const covered = marks.reduce((sum, mark) => sum + overlap(label, mark), 0)
        const crossed = [...lines, ...links].filter((segment) => crosses(label, segment)).length
        return (
          labels * 2 +
          covered * 3 +
          crossed * CROSSED +
          outside(label, frame) * 4 +
          FAR * Math.round(Math.hypot(place.dx, place.dy))
        )
      }
      places[own] = CANDIDATES.reduce((a, b) => (cost(b) < cost(a) ? b : a))
    }
  return places
}

const box = (x: number, y: number, half: number): Box => ({
  left: x - half,
  right: x + half,
  top: y - half,
  bottom: y + half,
})

function labelBox(point: LabelPoint, { dx, dy }: LabelPlace): Box {
  const width = point.text.length * LETTER
  const left = point.x + dx - width / 2
  return { left, right: left + width, top: point.y + dy - LINE / 2, bottom: point.y + dy + LINE / 2 }
}

const overlap = (a: Box, b: Box): number =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top))

/** Whether a segment meets a box (Liang and Barsky: the range of the segment that is left after clipping at four sides). */
export function crosses({ left, right, top, bottom }: Box, { x1, y1, x2, y2 }: Segment): boolean {
  let [from, to] = [0, 1]
  const sides: readonly (readonly [number, number])[] = [
    [x1 - x2, x1 - left],
    [x2 - x1, right - x1],
    [y1 - y2, y1 - top],
    [y2 - y1, bottom - y1],
  ]
  for (const [step, room] of sides) {
    if (step === 0 && room < 0) return false
    if (step < 0) from = Math.max(from, room / step)
    if (step > 0) to = Math.min(to, room / step)
  }
  return from <= to
}

/** Area of a label outside the frame. */
const outside = (label: Box, frame: Box): number =>
  (label.right - label.left) * (label.bottom - label.top) - overlap(label, frame)
