// The plot of README: mean KL divergence over the bits held, as an SVG file that brings its own background, light or dark.
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { placeLabels } from './places.mjs'
import { settingOf } from './results.mjs'

const [WIDTH, HEIGHT] = [860, 520]
const MARGIN = { top: 98, right: 24, bottom: 52, left: 62 }
const SYMBOLS = ['circle', 'square', 'triangle', 'diamond', 'star']
/** Colours of a scheme: text, background, and one per family. */
const LIGHT = ['#1c2126', '#ffffff', '#2f6fd0', '#c05c00', '#178254', '#c2334d', '#7b52c7', '#0a7f96']
const DARK = ['#e8ebee', '#14181c', '#79a8f5', '#f2a24d', '#5cc995', '#f0788c', '#b499f2', '#5cc8dc']
const rules = ([ink, page, ...families]) =>
  [
    `.results { color: ${ink}; } .results .page { fill: ${page}; }`,
    ...families.map(
      (color, i) => `.results .family-${i} { fill: ${color}; } .results .line-${i} { stroke: ${color}; }`,
    ),
  ].join('\n')
/** They follow the reader's scheme together with the background; a viewer without schemes shows the light ones. */
const STYLE = `
.results { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
${rules(LIGHT)}
@media (prefers-color-scheme: dark) {
${rules(DARK)}
}
`

/** @param {import('./results.mjs').Results} results */
export function resultPlot(results) {
  const { compressed, uncompressed } = results
  const klds = compressed.map(({ meanKld }) => meanKld)
  const [low, high] = [Math.min(...klds) / 1.6, Math.max(...klds) * 1.6]
  const bottom = HEIGHT - MARGIN.bottom
  const x = {
    domain: [0, Math.ceil(Math.max(...compressed.map(({ bits }) => bits)) + 0.5)],
    range: [MARGIN.left, WIDTH - MARGIN.right],
    label: 'bits per value held (resident) →',
    labelAnchor: 'center',
    labelOffset: 40,
  }
  const y = {
    type: 'log',
    domain: [low, high],
    range: [bottom, MARGIN.top],
    label: null,
    ticks: decades(low, high),
    tickFormat: String,
  }
  const [toX, toY] = [Plot.scale({ x }), Plot.scale({ y })]
  const points = compressed.map((result) => ({
    ...result,
    px: { x: toX.apply(result.bits), y: toY.apply(result.meanKld), text: result.label },
  }))
  const families = [...new Set(points.map(({ family }) => family))].map((name) =>
    points.filter(({ family }) => family === name),
  )
  const lines = families.flatMap((own) => own.slice(1).map((to, i) => [own[i].px, to.px]))
  const frame = { left: MARGIN.left, right: WIDTH - 4, top: MARGIN.top, bottom }
  const places = placeLabels(
    points.map(({ px }) => px),
    frame,
    lines,
  )
  const said = (text, top, weight) =>
    Plot.text([text], {
      frameAnchor: 'top-left',
      dx: 20 - MARGIN.left,
      dy: top - MARGIN.top,
      fontSize: weight ? 17 : 12,
      fontWeight: weight,
      fillOpacity: weight ? 1 : 0.8,
    })
  return svg({
    width: WIDTH,
    height: HEIGHT,
    marginTop: MARGIN.top,
    marginRight: MARGIN.right,
    marginBottom: MARGIN.bottom,
    marginLeft: MARGIN.left,
    x,
    y,
    marks: [
      Plot.gridX({ strokeOpacity: 0.12 }),
      Plot.gridY({ strokeOpacity: 0.12, ticks: y.ticks }),
      said('What the bits of a KV cache buy', 18, 600),
      said(`${settingOf(results)}. Uncompressed: perplexity ${uncompressed.perplexity.toFixed(2)}, divergence 0.`, 44),
      said('↑ mean KL divergence from the uncompressed model (nats, log)', 74),
      ...families.flatMap((own, i) => familyMarks(own, i)),
      ...points.map((point, i) => labelMark(point, places[i], families)),
    ],
  })
}

/** The line and the marks of one family; colours come from their classes. */
function familyMarks(own, i) {
  const at = { x: 'bits', y: 'meanKld' }
  return [
    Plot.line(own, { ...at, className: `line-${i}`, strokeOpacity: 0.6, strokeWidth: 1.6 }),
    Plot.dot(own, { ...at, className: `family-${i}`, r: 5, fill: 'currentColor', symbol: SYMBOLS[i % SYMBOLS.length] }),
  ]
}

function labelMark(point, { dx, dy, textAnchor }, families) {
  return Plot.text([point], {
    x: 'bits',
    y: 'meanKld',
    text: 'label',
    dx,
    dy,
    textAnchor,
    fontWeight: 600,
    className: `family-${families.findIndex(([{ family }]) => family === point.family)}`,
  })
}

/** The powers of ten inside a range. */
function decades(low, high) {
  const first = Math.ceil(Math.log10(low))
  return Array.from({ length: Math.floor(Math.log10(high)) - first + 1 }, (_, i) => Number(`1e${first + i}`))
}

/** Draws without a browser. Coordinates keep two places, so that the file is the same wherever it is made. */
function svg(options) {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const drawn = Plot.plot({ ...options, className: 'results', document })
  drawn.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  drawn.setAttribute('role', 'img')
  drawn.setAttribute('aria-label', 'Mean KL divergence over bits per value held, a labelled point per composition')
  drawn.querySelector('style').textContent = STYLE
  const page = '<rect class="page" width="100%" height="100%" rx="8"/>'
  return drawn.outerHTML
    .replace('</style>', `</style>${page}`)
    .replaceAll(/<[^>]+>/g, (tag) =>
      tag.replaceAll(/-?\d+\.\d{3,}/g, (number) => String(Number(Number(number).toFixed(2)))),
    )
    .replaceAll(/<(?=[a-z])/g, '\n<')
    .trim()
    .concat('\n')
}
