// What a cache must know of a model, and a fingerprint that tells one set of weights from another.
import type { ModelShape } from '@kvloom/core'
import type { ModelConfig } from './models/config'
import { ropeOf } from './rope'

/**
 * The sizes, rotation and scale a cache needs.
 * A sliding-window model is offered up to its window only: so far full attention is exactly what it computes.
 */
export function shapeOf(config: ModelConfig, fingerprint: string): ModelShape {
  const { layers, queryHeads, kvHeads, keyDim, valueDim } = config
  return Object.freeze({
    name: config.name ?? config.architecture,
    layers,
    queryHeads,
    kvHeads,
    keyDim,
    valueDim,
    contextLength: Math.min(config.contextLength, config.slidingWindow ?? Infinity),
    rope: ropeOf(config.rope),
    attentionScale: config.attentionScale ?? 1 / Math.sqrt(keyDim),
    fingerprint,
    ...(config.transformedBy ? { transformedBy: config.transformedBy } : {}),
  })
}

/** Bytes of each weight that enter the fingerprint. */
const sampledBytes = 1 << 16

/** Digest of the configuration and of every weight's name, format, shape and first 64 KiB; order of `add` does not matter. */
export class Fingerprint {
  private readonly lines: string[] = []

  async add(name: string, format: string, shape: readonly number[], data: Uint8Array): Promise<void> {
    this.lines.push(`${name} ${format} ${shape.join('x')} ${await sha256(data.slice(0, sampledBytes))}`)
  }

  /** 32 hexadecimal digits. */
  async digest(config: ModelConfig): Promise<string> {
    // What is SiLU says nothing, as before there were others: models keep the fingerprints that artifacts were fitted for.
    const { activation, ...rest } = config
    const told = activation === 'silu' ? rest : config
    const text = [JSON.stringify(told), ...this.lines.sort()].join('\n')
    return (await sha256(new TextEncoder().encode(text))).slice(0, 32)
  }
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await globalThis.crypto.subtle.digest('SHA-256', bytes)
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
