/** The three plots of a report, drawn by Observable Plot into SVG text. Colours are CSS variables, so they follow light and dark. */
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import * as format from './format'
import { type LabelPlace, placeLabels, type Segment } from './labels'
import { colorOf, dashOf, shapeOf } from './markers'
import type { CompositionReport, Report } from './schema'

/** A row that ran, with its place in the table (the uncompressed run is 0), which gives its number, colour and shape. */
export interface Series {
  readonly place: number
  readonly name: string
  readonly result: NonNullable<CompositionReport['result']>
}

export const seriesOf = (report: Report): readonly Series[] =>
  [report.baseline, ...report.compositions].flatMap((row, place) =>
    row.result ? [{ place, name: row.name, result: row.result }] : [],
  )

/** Every plot is drawn twice: for a page, and for a phone, where the wide one could not be read. */
export type PlotSize = 'wide' | 'narrow'
export const WIDTH: Readonly<Record<PlotSize, number>> = { wide: 860, narrow: 360 }

/** Divergences below this are drawn here: nobody sees them in a text, and zero has no place on a log axis. */
export const KLD_FLOOR = 1e-4

/** A row in the plot of size against damage; `x` and `formula` are bits per value. */
interface ParetoPoint extends Series {
  readonly x: number
  readonly formula: number
  readonly y: number
  readonly title: string
}

/** Bits per value against mean KLD (log): a filled mark for what is really held, a hollow one for the formula, a line along the best mixes. */
export function paretoPlot(report: Report, size: PlotSize): string {
  const points = seriesOf(report)
    .filter((s) => s.place > 0)
    .map(
      (s): ParetoPoint => ({
        ...s,
        x: s.result.footprint.residentBits,
        formula: s.result.footprint.theoreticalBits,
        y: Math.max(KLD_FLOOR, s.result.quality.meanKld),
        title: `${s.place} ${s.name}\n${format.bits(s.result.footprint.residentBits)} bits held, ${format.bits(s.result.footprint.theoreticalBits)} by formula\nmean KLD ${format.number(s.result.quality.meanKld)} nats`,
      }),
    )
  if (points.length === 0) return ''
  const [width, height] = [WIDTH[size], size === 'wide' ? 500 : 420]
  const margin = { top: 28, right: 20, bottom: 46, left: 58 }
  const right = Math.max(...points.map((p) => Math.max(p.x, p.formula))) * 1.08
  const low = Math.min(...points.map((p) => p.y)) / 2
  const high = Math.max(...points.map((p) => p.y)) * 3
  const px = (x: number): number => margin.left + (x / right) * (width - margin.left - margin.right)
  const py = (y: number): number =>
    margin.top + (1 - Math.log(y / low) / Math.log(high / low)) * (height - margin.top - margin.bottom)
  const best = frontier(points)
  const labels = placeLabels(
    points.map((p) => ({ x: px(p.x), y: py(p.y), text: String(p.place), alsoAt: px(p.formula) })),
    { left: margin.left + 2, right: width - 4, top: margin.top, bottom: height - margin.bottom },
    stepsOf(best.map((p) => ({ x: px(p.x), y: py(p.y) }))),
  )
  return svg(size, {
    width,
    height,
    marginTop: margin.top,
    marginRight: margin.right,
    marginBottom: margin.bottom,
    marginLeft: margin.left,
    ariaLabel: 'Scatter plot of bits per value against mean KL divergence, one numbered mark per composition',
    x: { domain: [0, right], label: 'bits per value held →', grid: true, ...(size === 'narrow' ? { ticks: 5 } : {}) },
    y: {
      type: 'log',
      domain: [low, high],
      label:
        size === 'wide'
          ? '↑ mean KL divergence to the uncompressed run (nats, log)'
          : '↑ mean KL divergence (nats, log)',
      grid: true,
      ...decades(low, high),
    },
    marks: paretoMarks(points, best, labels),
  })
}

function paretoMarks(
  points: readonly ParetoPoint[],
  best: readonly ParetoPoint[],
  labels: readonly LabelPlace[],
): Plot.Markish[] {
  const color = (p: Placed): string => colorOf(p.place)
  const symbol = (p: Placed): string => shapeOf(p.place)
  return [
    Plot.line(best, {
      x: 'x',
      y: 'y',
      stroke: 'var(--ink-soft)',
      strokeWidth: 1,
      strokeDasharray: '3 4',
      curve: 'step-after',
    }),
    Plot.link(points, { x1: 'x', x2: 'formula', y: 'y', stroke: color, strokeOpacity: 0.55, strokeWidth: 1.5 }),
    Plot.dot(points, { x: 'formula', y: 'y', r: 3.5, symbol, fill: 'var(--page)', stroke: color, strokeWidth: 1.5 }),
    Plot.dot(points, { x: 'x', y: 'y', r: 5.5, symbol, fill: color, title: 'title' }),
    ...points.map((p, i) =>
      Plot.text([p], {
        x: 'x',
        y: 'y',
        text: (each: Placed) => String(each.place),
        dx: labels[i]?.dx ?? 12,
        dy: labels[i]?.dy ?? 0,
        textAnchor: 'middle',
        fontWeight: 600,
        fill: color(p),
        stroke: 'var(--page)',
        strokeWidth: 3,
      }),
    ),
  ]
}

/** The pieces of a step-after line through points in pixels. */
function stepsOf(points: readonly { readonly x: number; readonly y: number }[]): readonly Segment[] {
  return points.slice(1).flatMap(({ x, y }, i) => {
    const from = points[i] ?? { x, y }
    return [
      { x1: from.x, y1: from.y, x2: x, y2: from.y },
      { x1: x, y1: from.y, x2: x, y2: y },
    ]
  })
}

/** Ticks at the powers of ten inside a range, so that a log axis stays readable. */
export function decades(
  low: number,
  high: number,
): { readonly ticks: readonly number[]; readonly tickFormat: (value: number) => string } {
  const first = Math.ceil(Math.log10(low))
  const count = Math.max(0, Math.floor(Math.log10(high)) - first + 1)
  return {
    ticks: Array.from({ length: count }, (_, i) => 10 ** (first + i)),
    tickFormat: (value) => (value >= 1e-3 ? String(Number(value.toPrecision(1))) : value.toExponential(0)),
  }
}

interface Placed {
  readonly place: number
}

/** The points that no other beats in both bits and KLD, by rising bits. */
export function frontier<T extends { readonly x: number; readonly y: number }>(points: readonly T[]): readonly T[] {
  return points
    .filter((p) => !points.some((q) => q !== p && q.x <= p.x && q.y <= p.y && (q.x < p.x || q.y < p.y)))
    .sort((a, b) => a.x - b.x)
}

/** Relative attention-output error of every layer. */
export function layerPlot(report: Report, size: PlotSize): string {
  const points = seriesOf(report)
    .filter((s) => s.place > 0)
    .flatMap((s) =>
      s.result.quality.attentionError.map((error, layer) => ({ place: s.place, name: s.name, layer, error })),
    )
    .filter((p) => p.error > 0)
  if (points.length === 0) return ''
  return svg(size, {
    width: WIDTH[size],
    height: 340,
    marginLeft: 58,
    marginBottom: 44,
    ariaLabel: 'Line plot of the relative attention-output error by layer, one line per composition',
    x: {
      label: 'layer →',
      ticks: Math.min(report.model.layers, size === 'wide' ? 12 : 6),
      tickFormat: (d: number) => (Number.isInteger(d) ? String(d) : ''),
    },
    y: {
      type: 'log',
      label: size === 'wide' ? '↑ relative error of the attention output (log)' : '↑ relative error (log)',
      grid: true,
      ...decades(Math.min(...points.map((p) => p.error)), Math.max(...points.map((p) => p.error))),
    },
    marks: lines(
      points,
      'layer',
      'error',
      (p) => `${p.name}\nlayer ${p.layer}: ${format.number(p.error, 3)}`,
      report.model.layers <= 40,
    ),
  })
}

/** Bytes held after every step. */
export function bytesPlot(report: Report, size: PlotSize): string {
  const points = seriesOf(report).flatMap((s) =>
    s.result.bytesOverTokens.map((b) => ({ place: s.place, name: s.name, tokens: b.tokens, held: b.total / 2 ** 20 })),
  )
  if (points.length === 0) return ''
  const prompt = report.protocol.promptTokens
  return svg(size, {
    width: WIDTH[size],
    height: 340,
    marginLeft: 58,
    marginBottom: 44,
    ariaLabel: 'Line plot of the bytes a cache holds by tokens seen, one line per composition',
    x: { label: 'tokens seen →', ...(size === 'narrow' ? { ticks: 5 } : {}) },
    y: { label: '↑ MiB held', grid: true, zero: true },
    marks: [
      ...(prompt > 0
        ? [
            Plot.ruleX([prompt], { stroke: 'var(--ink-soft)', strokeDasharray: '2 3' }),
            Plot.text([prompt], {
              x: (d: number) => d,
              text: () => 'end of the prompt',
              frameAnchor: 'top',
              dx: -6,
              textAnchor: 'end',
              fill: 'var(--ink-soft)',
            }),
          ]
        : []),
      ...lines(
        points,
        'tokens',
        'held',
        (p) => `${p.name}\n${p.tokens} tokens: ${format.number(p.held, 3)} MiB`,
        false,
      ),
    ],
  })
}

function lines<T extends { readonly place: number; readonly name: string }>(
  points: readonly T[],
  x: keyof T & string,
  y: keyof T & string,
  title: (p: T) => string,
  dots: boolean,
): Plot.Markish[] {
  const places = [...new Set(points.map((p) => p.place))]
  return places.flatMap((place) => {
    const own = points.filter((p) => p.place === place)
    const color = colorOf(place)
    return [
      Plot.line(own, { x, y, stroke: color, strokeWidth: 1.8, strokeDasharray: dashOf(place) }),
      Plot.dot(own, {
        x,
        y,
        r: dots ? 3 : 4,
        symbol: shapeOf(place),
        fill: color,
        ...(dots ? {} : { fillOpacity: 0 }),
        title,
      }),
      // Lines without marks of their own end in one, so that shapes tell them apart too.
      ...(dots ? [] : [Plot.dot(own.slice(-1), { x, y, r: 4, symbol: shapeOf(place), fill: color, title })]),
    ]
  })
}

/** Draws without a browser. Class names differ between the two sizes, since each brings a style of its own. */
export function svg(size: PlotSize, options: Plot.PlotOptions): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const drawn = Plot.plot({
    ...options,
    className: `plot-${size}`,
    document: document as Plot.PlotOptions['document'],
    style: { background: 'none', fontSize: '12px', fontFamily: 'inherit', overflow: 'visible' },
  })
  drawn.setAttribute('role', 'img')
  drawn.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  return drawn.outerHTML
}
