/** Records what a compressor's recalls select, so that attention over a selection can be checked exactly. */
import type { KVCache, KVCompressor, Recall, Stage } from '@kvloom/core'
import { type Held, liveRows } from './held'

interface Selection {
  readonly layer: number
  /** Which of the indexed rows the recall chose, `[queryHeads, count]`. */
  readonly rows: Int32Array
  readonly count: number
  readonly indexed: number
}

/** Records every selection of the compressors that it wraps. */
export class RecallWatch {
  private readonly bound = new Map<number, Recall>()
  private selections: Selection[] = []
  private wrong: string[] = []

  /** Returns the same compressor with its recalls watched. */
  over(compressor: KVCompressor): KVCompressor {
    const stages = compressor.stages.map((stage) => (stage.kind === 'recall' ? this.watched(stage) : stage))
    return { ...compressor, stages }
  }

  private watched(stage: Stage<'recall'>): Stage<'recall'> {
    return {
      ...stage,
      bind: (site, artifact) => {
        const recall = stage.bind(site, artifact)
        const { tier, sinks, every, budget } = recall
        this.bound.set(site.layer, recall)
        return {
          tier,
          sinks,
          every,
          budget,
          index: (keys, block) => recall.index(keys, block),
          select: async (queries, blocks, sizes, count) => {
            const chosen = await recall.select(queries, blocks, sizes, count)
            const rows = Int32Array.from(await chosen.data())
            const indexed = sizes.reduce((a, b) => a + b, 0)
            this.look({ layer: site.layer, rows, count, indexed }, [queries.shape[0] ?? 0, count], chosen.shape)
            return chosen
          },
        }
      },
    }
  }

  /** Checks that rows are ascending, and so none is there twice, and that they are among the indexed ones. */
  private look(selection: Selection, expected: readonly number[], shape: readonly number[]): void {
    const { layer, rows, count, indexed } = selection
    this.selections.push(selection)
    const ascends = rows.every((row, i) => (i % count === 0 ? row >= 0 : row > (rows[i - 1] ?? 0)) && row < indexed)
    if (shape.join() !== expected.join() || !ascends)
      this.wrong.push(
        `the recall of layer ${layer} selected [${shape.join(', ')}] rows, ` +
          `expected [${expected.join(', ')}] ascending ones of ${indexed}`,
      )
  }

  /** Forgets what was selected so far. */
  forget(): void {
    this.selections = []
  }

  /** Sentences on selections that were wrong in themselves. */
  problems(): readonly string[] {
    return this.wrong
  }

  /**
   * Which stored rows each query head read since `forget`. A selection does not name its lane, so selections are matched with the lanes that
   * hold more rows than the budget. When there are more or fewer of these, nobody can tell which lane selected, and the answer is null.
   */
  readsOf(cache: KVCache, layer: number, held: Held): ((queryHead: number, row: number) => boolean) | null {
    const source = cache.sourceLayer(layer)
    const recall = this.bound.get(source)
    const mine = this.selections.filter((s) => s.layer === source)
    if (!recall || mine.length === 0) return () => true
    const large = cache.segments(source).filter(({ heads }) => {
      const first = held[heads[0] ?? 0]
      return first !== undefined && liveRows(first) > recall.budget
    })
    if (large.length !== mine.length) return null
    const group = cache.model.queryHeads / cache.model.kvHeads
    const chosen = new Map<number, Set<number>>()
    const indexed = new Map<number, number>()
    large.forEach(({ heads }, lane) => {
      const selection = mine[lane]
      if (!selection) return
      heads.forEach((head, h) => {
        for (let g = 0; g < group; g++) {
          const at = (h * group + g) * selection.count
          chosen.set(head * group + g, new Set(selection.rows.subarray(at, at + selection.count)))
          indexed.set(head * group + g, selection.indexed)
        }
      })
    })
    return (queryHead, row) => {
      const own = chosen.get(queryHead)
      const at = row - recall.sinks
      return !own || at < 0 || at >= (indexed.get(queryHead) ?? 0) || own.has(at)
    }
  }

  /** Whether some layer's indexed rows belong in host memory. */
  get usesHost(): boolean {
    return [...this.bound.values()].some(({ tier }) => tier === 'host')
  }
  /** Whether anything was selected since `forget`. */
  get selected(): boolean {
    return this.selections.length > 0
  }
}
