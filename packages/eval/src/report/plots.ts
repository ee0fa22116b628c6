/** The three plots of a report, drawn by Observable Plot into SVG text. Colours are CSS variables, so they follow light and dark. */
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import * as format from './format'
import { placeLabels } from './labels'
import type { CompositionReport, Report } from './schema'

/** A row that ran, with its place in the table (the uncompressed run is 0), which gives its colour. */
export interface Series {
  readonly place: number
  readonly name: string
  readonly result: NonNullable<CompositionReport['result']>
}

/** Colours defined by the page; rows beyond them repeat colours with another dash. */
export const COLORS = 9

export const seriesOf = (report: Report): readonly Series[] =>
  [report.baseline, ...report.compositions].flatMap((row, place) =>
    row.result ? [{ place, name: row.name, result: row.result }] : [],
  )

/** CSS colour of a place; the uncompressed run is grey. */
export const colorOf = (place: number): string =>
  place === 0 ? 'var(--ink-soft)' : `var(--series-${(place - 1) % COLORS})`
const dashOf = (place: number): string =>
  place === 0 ? '2 3' : (['none', '6 3', '2 2'][Math.floor((place - 1) / COLORS) % 3] ?? 'none')

const WIDTH = 860

/** Divergences below this are drawn here: nobody sees them in a text, and zero has no place on a log axis. */
export const KLD_FLOOR = 1e-4

/** Bits per value against mean KLD (log): a dot for what is really held, a tick for the formula, a line along the best mixes. */
export function paretoPlot(report: Report): string {
  const points = seriesOf(report)
    .filter((s) => s.place > 0)
    .map((s) => ({
      ...s,
      x: s.result.footprint.residentBits,
      formula: s.result.footprint.theoreticalBits,
      y: Math.max(KLD_FLOOR, s.result.quality.meanKld),
      title: `${s.name}\n${format.bits(s.result.footprint.residentBits)} bits held, ${format.bits(s.result.footprint.theoreticalBits)} by formula\nmean KLD ${format.number(s.result.quality.meanKld)} nats`,
    }))
  if (points.length === 0) return ''
  const height = 500
  const margin = { top: 28, right: 24, bottom: 48, left: 64 }
  const right = Math.max(...points.map((p) => Math.max(p.x, p.formula))) * 1.12
  const low = Math.min(...points.map((p) => p.y)) / 2
  const high = Math.max(...points.map((p) => p.y)) * 4
  const px = (x: number): number => margin.left + (x / right) * (WIDTH - margin.left - margin.right)
  const py = (y: number): number =>
    margin.top + (1 - Math.log(y / low) / Math.log(high / low)) * (height - margin.top - margin.bottom)
  const labels = placeLabels(
    points.map((p) => ({ x: px(p.x), y: py(p.y), text: p.name, alsoAt: px(p.formula) })),
    { left: margin.left + 2, right: WIDTH - 4, top: margin.top, bottom: height - margin.bottom },
  )
  return svg({
    width: WIDTH,
    height,
    marginTop: margin.top,
    marginRight: margin.right,
    marginBottom: margin.bottom,
    marginLeft: margin.left,
    ariaLabel: 'Scatter plot of bits per value against mean KL divergence, one dot per composition',
    x: { domain: [0, right], label: 'bits per value held →', grid: true },
    y: {
      type: 'log',
      domain: [low, high],
      label: '↑ mean KL divergence to the uncompressed run (nats, log)',
      grid: true,
      ...decades(low, high),
    },
    marks: [
      Plot.line(frontier(points), {
        x: 'x',
        y: 'y',
        stroke: 'var(--ink-soft)',
        strokeWidth: 1,
        strokeDasharray: '3 4',
        curve: 'step-after',
      }),
      Plot.link(points, {
        x1: 'x',
        x2: 'formula',
        y: 'y',
        stroke: (p: Placed) => colorOf(p.place),
        strokeOpacity: 0.55,
        strokeWidth: 1.5,
      }),
      Plot.dot(points, {
        x: 'formula',
        y: 'y',
        r: 3.5,
        fill: 'var(--page)',
        stroke: (p: Placed) => colorOf(p.place),
        strokeWidth: 1.5,
      }),
      Plot.dot(points, { x: 'x', y: 'y', r: 6, fill: (p: Placed) => colorOf(p.place), title: 'title' }),
      ...points.map((p, i) =>
        Plot.text([p], {
          x: 'x',
          y: 'y',
          text: 'name',
          dx: labels[i]?.dx ?? 10,
          dy: labels[i]?.dy ?? 0,
          textAnchor: labels[i]?.anchor ?? 'start',
          fill: colorOf(p.place),
          stroke: 'var(--page)',
          strokeWidth: 4,
        }),
      ),
    ],
  })
}

/** Ticks at the powers of ten inside a range, so that a log axis stays readable. */
function decades(
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
export function layerPlot(report: Report): string {
  const points = seriesOf(report)
    .filter((s) => s.place > 0)
    .flatMap((s) =>
      s.result.quality.attentionError.map((error, layer) => ({ place: s.place, name: s.name, layer, error })),
    )
    .filter((p) => p.error > 0)
  if (points.length === 0) return ''
  return svg({
    width: WIDTH,
    height: 340,
    marginLeft: 64,
    marginBottom: 44,
    ariaLabel: 'Line plot of the relative attention-output error by layer, one line per composition',
    x: {
      label: 'layer →',
      ticks: report.model.layers <= 12 ? report.model.layers : 10,
      tickFormat: (d: number) => (Number.isInteger(d) ? String(d) : ''),
    },
    y: {
      type: 'log',
      label: '↑ relative error of the attention output (log)',
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
export function bytesPlot(report: Report): string {
  const points = seriesOf(report).flatMap((s) =>
    s.result.bytesOverTokens.map((b) => ({ place: s.place, name: s.name, tokens: b.tokens, held: b.total / 2 ** 20 })),
  )
  if (points.length === 0) return ''
  const prompt = report.protocol.promptTokens
  return svg({
    width: WIDTH,
    height: 340,
    marginLeft: 64,
    marginBottom: 44,
    ariaLabel: 'Line plot of the bytes a cache holds by tokens seen, one line per composition',
    x: { label: 'tokens seen →' },
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
      Plot.dot(own, { x, y, r: dots ? 2.6 : 4, fill: color, ...(dots ? {} : { fillOpacity: 0 }), title }),
    ]
  })
}

/** Draws without a browser. Ids and class names stay unique per plot because each is drawn once. */
function svg(options: Plot.PlotOptions): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const drawn = Plot.plot({
    ...options,
    document: document as Plot.PlotOptions['document'],
    style: { background: 'none', fontSize: '12px', fontFamily: 'inherit', overflow: 'visible' },
  })
  drawn.setAttribute('role', 'img')
  drawn.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  return drawn.outerHTML
}
