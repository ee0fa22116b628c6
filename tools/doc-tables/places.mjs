// Where the labels of a plot stand: beside their points, on no other label, no mark and no line.

/** Width of a letter and height of a line at 12 px, with some air. */
const LETTER = 6.8
const LINE = 14
const MARK = 6

/** Places around a point, the best first: `dx` and `dy` from the point to the label's end, and which end that is. */
const PLACES = [10, 16, 24].flatMap((far) => [
  { dx: far, dy: 0, textAnchor: 'start' },
  { dx: far, dy: -far, textAnchor: 'start' },
  { dx: far, dy: far, textAnchor: 'start' },
  { dx: -far, dy: 0, textAnchor: 'end' },
  { dx: -far, dy: far, textAnchor: 'end' },
  { dx: -far, dy: -far, textAnchor: 'end' },
  { dx: 0, dy: -far - 4, textAnchor: 'middle' },
  { dx: 0, dy: far + 4, textAnchor: 'middle' },
])

const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
const within = (a, b) => a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom
const around = ({ x, y }) => ({ left: x - MARK, right: x + MARK, top: y - MARK, bottom: y + MARK })

/** The box that a label covers at a place of its point; pixels. */
export function labelBox({ x, y, text }, { dx, dy, textAnchor }) {
  const width = text.length * LETTER
  const left = x + dx - { start: 0, middle: width / 2, end: width }[textAnchor]
  return { left, right: left + width, top: y + dy - LINE / 2, bottom: y + dy + LINE / 2 }
}

/** Whether a line between two points passes through a box: the part of it inside the box's four sides is not empty. */
function crosses({ left, right, top, bottom }, [from, to]) {
  const [dx, dy] = [to.x - from.x, to.y - from.y]
  let [enter, leave] = [0, 1]
  for (const [step, room] of [
    [-dx, from.x - left],
    [dx, right - from.x],
    [-dy, from.y - top],
    [dy, bottom - from.y],
  ]) {
    if (step === 0 && room < 0) return false
    if (step < 0) enter = Math.max(enter, room / step)
    if (step > 0) leave = Math.min(leave, room / step)
  }
  return enter < leave
}

/**
 * @param {readonly { x: number, y: number, text: string }[]} points in pixels
 * @param {{ left: number, right: number, top: number, bottom: number }} frame that labels stay in
 * @param {readonly (readonly [{ x: number, y: number }, { x: number, y: number }])[]} lines
 * @throws {Error} that names the label for which no place is free
 * @returns {{ dx: number, dy: number, textAnchor: string }[]} a place per point
 */
export function placeLabels(points, frame, lines) {
  const taken = []
  return points.map((point) => {
    const place = PLACES.find((each) => {
      const box = labelBox(point, each)
      return (
        within(box, frame) &&
        !taken.some((other) => meet(box, other)) &&
        !points.some((other) => meet(box, around(other))) &&
        !lines.some((line) => crosses(box, line))
      )
    })
    if (!place) throw new Error(`the plot has no free place for the label '${point.text}'; make it larger`)
    taken.push(labelBox(point, place))
    return place
  })
}
