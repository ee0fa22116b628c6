/** Checks that a cache holds little more than its rows need. Pages that are hardly used cost bytes, and so do dropped rows that stay. */
import { foldSpace, type KVCache, type Part, type SegmentView, stagesOn } from '@kvloom/core'
import { type Tensor, util } from '@tensorflow/tfjs-core'
import { type Held, heldIn } from './held'

/** By how much pages may exceed what their rows need. A page that is being filled or emptied comes on top, one per zone of a part and lane. */
export const RESIDENT_SHARE = 1.15

const bytesOf = (tensors: readonly Tensor[]): number =>
  tensors.reduce((sum, t) => sum + t.size * util.bytesPerElement(t.dtype), 0)

/** How many bytes the segments of one part of one lane take. */
export interface Resident {
  readonly held: number
  readonly needed: number
  /** How much may be idle: a page of every zone, and two of a window that slides. */
  readonly page: number
}

/**
 * Sums over segments; a page that several of them show is held once.
 * @param drops whether rows are dropped at any time, also sealed ones
 */
export function residentOf(segments: readonly SegmentView[], drops = false): Resident {
  const pages = new Map<Tensor | undefined, { bytes: number; zone: string }>()
  let needed = 0
  // Rows in host memory separate the pages before them from those behind.
  const parts = segments.some(({ tensors }) => tensors.length === 0) ? 2 : 1
  for (const { zone, tensors, rows, capacity } of segments) {
    const bytes = bytesOf(tensors)
    pages.set(tensors[0], { bytes, zone })
    needed += (bytes * rows) / capacity
  }
  const largest = new Map<string, number>()
  for (const { bytes, zone } of pages.values()) largest.set(zone, Math.max(largest.get(zone) ?? 0, bytes))
  // Rows leave the window in front, to be sealed, and come in behind: a page is emptied while another is filled.
  const [window, sealed] = [largest.get('window'), largest.get('sealed')]
  if (window && sealed) largest.set('window', 2 * window)
  // The same holds for sealed pages out of which rows are dropped one by one.
  if (sealed && drops) largest.set('sealed', 2 * sealed)
  return {
    held: [...pages.values()].reduce((sum, { bytes }) => sum + bytes, 0),
    needed,
    page: parts * [...largest.values()].reduce((sum, bytes) => sum + bytes, 0),
  }
}

/**
 * Returns sentences on parts that take more than their rows need. It reads nothing back.
 * @param prompts how many prompts have ended: rows that were sealed under another prompt's fit lie in pages of their own
 */
export function slackIn(cache: KVCache, prompts: number): string[] {
  const problems: string[] = []
  const drops = foldSpace(cache.compressor.stages, 'keys').drops === 'always'
  for (let layer = 0; layer < cache.model.layers; layer++)
    for (const [l, lane] of cache.segments(layer).entries())
      for (const part of ['keys', 'values'] as const) {
        const { held, needed, page: open } = residentOf(lane[part], drops)
        const page = open * (fitsPrompts(cache, layer, part) ? Math.max(1, prompts) : 1)
        if (held > RESIDENT_SHARE * needed + page)
          problems.push(
            `after ${cache.tokensSeen} tokens the ${part} of layer ${layer}, lane ${l} take ${held} bytes; ` +
              `their rows need ${Math.round(needed)}, pages being filled ${page}`,
          )
      }
  return problems
}

/** Whether a transform learns its map from every prompt. */
const fitsPrompts = (cache: KVCache, layer: number, part: Part): boolean =>
  stagesOn(cache.compressor, 'transform', layer, part).some((stage) => stage.when === 'promptEnd')

/** How many dropped rows that no block needs may wait to be copied away together: a share of the live ones, or one. */
const WAITING_SHARE = 0.15

/** Returns sentences on dropped rows that are still held although no sealed block of either part needs them. */
export async function deadRowsIn(cache: KVCache): Promise<string[]> {
  const problems: string[] = []
  for (let layer = 0; layer < cache.model.layers; layer++) {
    if (cache.sourceLayer(layer) !== layer) continue
    const held = await heldIn(cache, layer)
    for (const [l, { heads, keys, values }] of cache.segments(layer).entries()) {
      const positions = heads.map((h) => held[h]?.positions ?? new Int32Array())
      const free = deadRows(positions, [keys, values]).length
      const rows = positions[0]?.length ?? 0
      if (free > Math.max(1, WAITING_SHARE * (rows - free)))
        problems.push(
          `after ${cache.tokensSeen} tokens layer ${layer}, lane ${l} holds ${free} of ${rows} rows that were dropped and that no block needs`,
        )
    }
  }
  return problems
}

/** The rows that are dead in every head and lie in no sealed segment with a live row. */
export function deadRows(
  positions: readonly Held[number]['positions'][],
  parts: readonly (readonly Pick<SegmentView, 'zone' | 'rows'>[])[],
): readonly number[] {
  const rows = positions[0]?.length ?? 0
  const lives = (row: number): boolean => positions.some((own) => (own[row] ?? -1) >= 0)
  const needed = new Set<number>()
  for (const segments of parts) {
    let from = 0
    for (const { zone, rows: n } of segments) {
      const inside = Array.from({ length: n }, (_, i) => from + i)
      if (zone === 'sealed' && inside.some(lives)) for (const row of inside) needed.add(row)
      from += n
    }
  }
  return Array.from({ length: rows }, (_, row) => row).filter((row) => !lives(row) && !needed.has(row))
}
