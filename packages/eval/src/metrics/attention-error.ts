/** Attention-output error per layer: || o - o* || / || o* || over the sampled positions, o* of the uncompressed run. */

/** Outputs of the uncompressed run: per layer, position to `[queryHeads · valueDim]`. */
export class AttentionReference {
  private readonly layers: Map<number, Float32Array>[] = []

  set(layer: number, position: number, output: Float32Array): void {
    this.at(layer).set(position, output)
  }
  get(layer: number, position: number): Float32Array | undefined {
    return this.layers[layer]?.get(position)
  }
  private at(layer: number): Map<number, Float32Array> {
    const known = this.layers[layer]
    if (known) return known
    const made = new Map<number, Float32Array>()
    this.layers[layer] = made
    return made
  }
}

/**
 * Sums the error of one run against the reference. The inputs of a layer already differ by what earlier layers lost,
 * so this is the error as the model sees it, upstream drift included.
 */
export class AttentionError {
  private readonly difference: number[]
  private readonly norm: number[]

  constructor(
    private readonly reference: AttentionReference,
    layers: number,
  ) {
    this.difference = new Array<number>(layers).fill(0)
    this.norm = new Array<number>(layers).fill(0)
  }

  add(layer: number, position: number, output: Float32Array): void {
    const wanted = this.reference.get(layer, position)
    // A model stage may have changed the width of values: then there is nothing to compare with.
    if (wanted?.length !== output.length) return
    let difference = 0
    let norm = 0
    for (let i = 0; i < wanted.length; i++) {
      const w = wanted[i] as number
      const d = (output[i] as number) - w
      difference += d * d
      norm += w * w
    }
    this.difference[layer] = (this.difference[layer] ?? 0) + difference
    this.norm[layer] = (this.norm[layer] ?? 0) + norm
  }

  /** One number per layer; 0 where nothing was compared. */
  perLayer(): number[] {
    return this.norm.map((norm, layer) => (norm > 0 ? Math.sqrt((this.difference[layer] ?? 0) / norm) : 0))
  }
}
