/** Makes the byte ledger, which says by kind what the pages and tensors of a cache take, and the census of a layer's rows. */
import type { ByteLedger, LayerCensus } from '../contract'
import { bytesOf } from '../tensors'
import type { Account } from './account'
import type { LayerCache } from './layer'
import type { TablePool } from './pool'
import type { Rotary } from './rotary'
import type { Fitted } from './rows/fitted'
import { hostBytes } from './rows/host'
import type { Page } from './rows/page'
import type { Rows } from './rows/rows'
import { mapStored } from './rows/stored'

/** Sums the bytes of every page and tensor that is held. */
export function ledgerOf(layers: readonly LayerCache[], account: Account, pool: TablePool, rotary: Rotary): ByteLedger {
  const sum = { payload: 0, metadata: 0, window: 0, slack: 0, state: 0, index: 0, workspace: 0, perPrompt: 0, host: 0 }
  const used = new Map<Page, number>()
  const fits = new Set<Fitted>()
  for (const layer of layers) {
    sum.state +=
      (layer.ring?.bytes ?? 0) +
      (layer.hidden?.bytes ?? 0) +
      [...layer.replayed, layer.undecided].reduce((n, held) => n + held.bytes, 0)
    for (const index of layer.recall) sum.index += index.bytes
    for (const lane of layer.lanes) {
      sum.state += lane.stateBytes
      for (const part of lane.parts) {
        if (part.fitted) fits.add(part.fitted)
        sum.workspace += part.kept.bytes
        sum.host += hostBytes(part)
        const rows = new Map<Page, number>()
        for (const v of part.views.all()) {
          rows.set(v.page, (rows.get(v.page) ?? 0) + v.rows)
          if (v.page.fitted) fits.add(v.page.fitted)
        }
        // The layers of a group share pages, and such a page holds the same rows for each of them. So they count once.
        for (const [page, count] of rows) used.set(page, Math.max(used.get(page) ?? 0, count))
      }
    }
  }
  let shared = pool.shared ? pool.bytes : 0
  for (const [page, rows] of used) {
    addPage(sum, page, rows)
    if (page.shared) shared += page.bytes
  }
  for (const fit of fits) {
    sum.perPrompt += fit.bytes
    if (fit.shared) shared += fit.bytes
  }
  const { host, ...device } = sum
  // Rotary tables belong to the model, as codebooks do.
  const perModel = pool.bytes + rotary.bytes
  const total = Object.values(device).reduce((a, b) => a + b, perModel)
  return { ...sum, host, perModel, total, peak: account.peak, shared }
}

function addPage(sum: Record<'payload' | 'metadata' | 'window' | 'slack', number>, page: Page, rows: number): void {
  const share = rows / page.capacity
  sum.slack += page.bytes - page.bytes * share
  const { stored, form, exempt, sealed } = page
  if (stored)
    mapStored(stored, form, (tensor, { counts }) => {
      sum[sealed ? counts : 'window'] += bytesOf(tensor) * share
    })
  if (exempt) for (const tensor of [exempt.index, ...exempt.rows]) sum.metadata += bytesOf(tensor) * share
}

/** Counts the rows of a layer by zone, as a mean over KV heads, and what the live ones of them take. */
export function censusOf(layer: LayerCache): LayerCensus {
  const heads = Math.max(
    1,
    layer.lanes.reduce((n, lane) => n + lane.shape.heads.length, 0),
  )
  const mean = (of: (lane: LayerCache['lanes'][number]) => number) =>
    layer.lanes.reduce((n, lane) => n + of(lane) * lane.shape.heads.length, 0) / heads
  const zones = (part: 'keys' | 'values') => ({
    exact: mean((lane) => lane[part].count - lane[part].views.rowsIn('sealed')),
    sealed: mean((lane) => lane[part].views.rowsIn('sealed')),
    sealedBitsPerValue: layer.lanes[0]?.[part].form.codec?.bitsPerValue ?? 16,
  })
  const room = layer.lanes.flatMap((lane) => lane.parts.map((part) => roomOf(part, lane.live.marks)))
  return {
    keys: zones('keys'),
    values: zones('values'),
    dead: mean((lane) => lane.rows - lane.liveRows),
    liveBytes: room.reduce((n, part) => n + part.live, 0),
    pageBytes: room.reduce((n, part) => n + part.page, 0),
  }
}

/** The bytes of a part's live rows in the form they are stored in, and of its largest page. Of pages that layers share, a layer gets its share. */
function roomOf(part: Rows, marks: readonly Int32Array[] | null): { readonly live: number; readonly page: number } {
  const sharers = part.form.codec?.parts.layers.length ?? 1
  let [live, page, at] = [0, 0, 0]
  for (const v of part.views.all()) {
    const bytes = v.page.bytes / (v.page.sealed ? sharers : 1)
    const first = at
    const rows = marks
      ? marks.reduce((n, row) => n + row.subarray(first, first + v.rows).reduce((a, b) => a + b, 0), 0) / marks.length
      : v.rows
    live += (rows * bytes) / v.page.capacity
    page = Math.max(page, bytes)
    at += v.rows
  }
  return { live, page }
}
