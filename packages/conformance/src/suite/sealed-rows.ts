/** Watches rows from the moment they are sealed: their reconstruction, and the bytes of full pages, must stay the same bits. */
import { type KVCache, stagesOn } from '@kvloom/core'
import { fromTensor } from '@kvloom/golden'
import type { Tensor } from '@tensorflow/tfjs-core'
import { bitsOf, heldIn } from './held'

export class SealedRows {
  private readonly rows = new Map<string, string>()
  /** What was seen of each tensor. The tensor is held on to, so that no other one gets its id. */
  private readonly pages = new Map<number, { tensor: Tensor; bytes: string }>()

  /** Returns sentences on what changed since it was sealed. */
  async look(cache: KVCache): Promise<string[]> {
    const problems: string[] = []
    for (let layer = 0; layer < cache.model.layers; layer++) {
      // A resampling rewrites rows and numbers them anew, so they cannot be followed.
      const named = stagesOn(cache.compressor, 'resample', layer).length === 0
      const held = await heldIn(cache, layer)
      for (const lane of cache.segments(layer))
        for (const part of ['keys', 'values'] as const) {
          let from = 0
          for (const segment of lane[part]) {
            if (segment.zone === 'sealed' && named)
              for (const head of lane.heads)
                for (let row = from; row < from + segment.rows; row++)
                  problems.push(
                    ...this.lookAtRow(
                      `${part} of layer ${layer}, head ${head}`,
                      held[head]?.positions[row] ?? -1,
                      held[head]?.[part][row],
                    ),
                  )
            if (segment.zone === 'sealed' && segment.rows === segment.capacity)
              for (const tensor of segment.tensors)
                problems.push(...(await this.lookAtPage(`${part} of layer ${layer}`, tensor)))
            from += segment.rows
          }
        }
    }
    return problems
  }

  private lookAtRow(where: string, position: number, row: Float32Array | undefined): string[] {
    if (position < 0 || !row) return []
    const key = `${where}, token ${position}`
    const bits = bitsOf(row)
    const before = this.rows.get(key) ?? bits
    this.rows.set(key, before)
    return before === bits ? [] : [`sealed ${key} changed`]
  }

  private async lookAtPage(where: string, tensor: Tensor): Promise<string[]> {
    const bytes = bitsOf((await fromTensor(tensor)).data)
    const before = this.pages.get(tensor.id) ?? { tensor, bytes }
    this.pages.set(tensor.id, before)
    return before.bytes === bytes ? [] : [`a full page of sealed ${where} changed`]
  }
}
