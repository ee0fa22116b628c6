/**
 * A cache that behaves like the one it wraps and watches what `attend` returns at a few sampled positions, so that
 * the attention error of a compressed run against the uncompressed one is known per layer in bounded memory.
 * It also adds up the time spent inside the cache.
 */
import type { ByteLedger, KVCache, LaneView, LayerCensus, Phase } from '@kvloom/core'
import { gather, type Tensor, tensor1d, tidy, transpose } from '@tensorflow/tfjs-core'

/** Called with the output `[queryHeads · valueDim]` at one sampled position. The numbers are the callee's to keep. */
export type WatchAttention = (layer: number, position: number, output: Float32Array) => void

export class WatchedCache implements KVCache {
  /** Milliseconds inside begin, attend and commit since the last reset. */
  cacheMs = 0
  /** Milliseconds of watching itself, to be taken off a step's time. */
  watchMs = 0
  private now: readonly number[] = []
  private start = 0

  /** @param sampled original positions to watch, ascending. The inner cache stays the caller's to dispose. */
  constructor(
    private readonly inner: KVCache,
    private readonly sampled: readonly number[] = [],
    private readonly watch: WatchAttention | null = null,
  ) {}

  get model() {
    return this.inner.model
  }
  get compressor() {
    return this.inner.compressor
  }
  get chunkLimit(): number {
    return this.inner.chunkLimit
  }
  get tokensSeen(): number {
    return this.inner.tokensSeen
  }
  get contextLeft(): number {
    return this.inner.contextLeft
  }
  get contextCure(): string | undefined {
    return this.inner.contextCure
  }
  canTake(tokens: number): number {
    return this.inner.canTake(tokens)
  }
  get replay() {
    return this.inner.replay ?? null
  }
  wantsHidden(layer: number): boolean {
    return this.inner.wantsHidden?.(layer) ?? false
  }
  rollback(tokens: number): void {
    this.inner.rollback(tokens)
  }

  begin(tokens: Int32Array, phase: Phase): void {
    this.start = this.inner.tokensSeen
    const end = this.start + tokens.length
    this.now = this.sampled.filter((p) => p >= this.start && p < end)
    const started = performance.now()
    this.inner.begin(tokens, phase)
    this.cacheMs += performance.now() - started
  }

  async attend(layer: number, now: { queries: Tensor; keys?: Tensor; values?: Tensor }): Promise<Tensor> {
    const started = performance.now()
    const output = await this.inner.attend(layer, now)
    const attended = performance.now()
    this.cacheMs += attended - started
    if (this.watch && this.now.length > 0) {
      const rows = tensor1d(
        this.now.map((p) => p - this.start),
        'int32',
      )
      // [queryHeads, sampled, valueDim] -> [sampled, queryHeads, valueDim]
      const picked = tidy(() => transpose(gather(output, rows, 1), [1, 0, 2]))
      rows.dispose()
      const values = (await picked.data()) as Float32Array
      picked.dispose()
      const width = values.length / this.now.length
      for (const [i, position] of this.now.entries())
        this.watch(layer, position, values.slice(i * width, (i + 1) * width))
      this.watchMs += performance.now() - attended
    }
    return output
  }

  async commit(): Promise<void> {
    const started = performance.now()
    await this.inner.commit()
    this.cacheMs += performance.now() - started
  }

  resetTimes(): void {
    this.cacheMs = 0
    this.watchMs = 0
  }

  sourceLayer(layer: number): number {
    return this.inner.sourceLayer(layer)
  }
  read(layer: number, queries: Tensor): Promise<Tensor> {
    return this.inner.read(layer, queries)
  }
  fork(): KVCache {
    return this.inner.fork()
  }
  bytes(): ByteLedger {
    return this.inner.bytes()
  }
  census(layer: number): LayerCensus {
    return this.inner.census(layer)
  }
  materialize(layer: number, lane?: number) {
    return this.inner.materialize(layer, lane)
  }
  segments(layer: number): readonly LaneView[] {
    return this.inner.segments(layer)
  }
  serialize(): AsyncIterable<Uint8Array> {
    return this.inner.serialize()
  }
  dispose(): void {
    this.inner.dispose()
  }
}

/** `count` positions spread evenly over `[from, to)`, ends included; all of them when there are fewer. */
export function samplePositions(from: number, to: number, count: number): readonly number[] {
  const total = Math.max(0, to - from)
  const n = Math.min(count, total)
  if (n <= 1) return total > 0 && n === 1 ? [from] : []
  return Array.from({ length: n }, (_, i) => from + Math.round((i * (total - 1)) / (n - 1)))
}
