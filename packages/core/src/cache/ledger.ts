/** The byte ledger: what the pages and tensors of a cache hold, by kind. */
import type { ByteLedger, LayerCensus } from '../contract'
import type { LayerCache } from './layer'
import { type Account, bytesOf, type Page } from './page'
import type { PartStore } from './part-store'

/** Sums every page and tensor held. `perModel`: bytes of artifacts, shared by all caches of the model. */
export function ledgerOf(layers: readonly LayerCache[], account: Account, perModel: number): ByteLedger {
  const sum = { payload: 0, metadata: 0, window: 0, slack: 0, state: 0, shared: 0 }
  for (const layer of layers) {
    sum.state += layer.ring?.bytes ?? 0
    for (const lane of layer.lanes) {
      sum.state += lane.stateBytes
      for (const part of [lane.keys, lane.values]) addPart(sum, part)
    }
  }
  const { payload, metadata, window, slack, state, shared } = sum
  return {
    payload,
    metadata,
    window,
    slack,
    state,
    index: 0,
    workspace: 0,
    perPrompt: 0,
    perModel,
    total: payload + metadata + window + slack + state,
    peak: account.peak,
    shared,
  }
}

function addPart(sum: Record<'payload' | 'metadata' | 'window' | 'slack' | 'shared', number>, part: PartStore): void {
  const rows = new Map<Page, number>()
  for (const v of part.views()) rows.set(v.page, (rows.get(v.page) ?? 0) + v.rows)
  for (const [page, used] of rows) {
    const share = used / page.capacity
    if (page.shared) sum.shared += page.bytes
    sum.slack += page.bytes - page.bytes * share
    for (const [name, tensor] of Object.entries(page.tensors)) {
      const bytes = bytesOf(tensor) * share
      if (page.layout.kind === 'dense') sum.window += bytes
      else if (name.startsWith('metadata')) sum.metadata += bytes
      else sum.payload += bytes
    }
  }
}

/** Rows held by zone, averaged over KV heads. */
export function censusOf(layer: LayerCache): LayerCensus {
  const heads = layer.lanes.reduce((n, lane) => n + lane.shape.heads.length, 0)
  const mean = (of: (lane: LayerCache['lanes'][number]) => number) =>
    layer.lanes.reduce((n, lane) => n + of(lane) * lane.shape.heads.length, 0) / heads
  const zones = (part: 'keys' | 'values') => ({
    exact: mean((lane) => lane[part].rowsIn('sink') + lane[part].rowsIn('window')),
    sealed: mean((lane) => lane[part].rowsIn('sealed')),
  })
  return { keys: zones('keys'), values: zones('values'), dead: mean((lane) => lane.rows - lane.liveRows) }
}
