// What is in the cache, and what is in a model: for people who choose one.
import fs from 'node:fs/promises'
import path from 'node:path'
import type { GgufValue } from '../files/gguf'
import type { ModelConfig } from './config'
import { openModelFiles, type WeightInfo } from './model-files'
import { storedFile, storedFolder } from './store'

/** A model in the cache. */
export interface CachedModel {
  /** The name that finds it again: `owner/repo`, `owner/repo/file.gguf`, or the name of a file put there by hand. */
  readonly name: string
  readonly path: string
  readonly bytes: number
  readonly sha256: string | undefined
  /** Where it came from; undefined for what was put there by hand. */
  readonly source: string | undefined
  /** An unfinished download, continued by the next request for it. */
  readonly partial: boolean
}

/** Every model in the cache, by name; an absent cache is empty. */
export async function listModels(cacheDir: string): Promise<CachedModel[]> {
  const found: CachedModel[] = []
  const visit = async (folder: string): Promise<void> => {
    const whole = folder === cacheDir ? undefined : await storedFolder(folder)
    if (whole) found.push({ ...whole, name: nameOf(cacheDir, folder), partial: false })
    for (const entry of await fs.readdir(folder, { withFileTypes: true }).catch(() => [])) {
      const full = path.join(folder, entry.name)
      if (entry.isDirectory() && !/\.(lock|pip)$/.test(entry.name)) await visit(full)
      const partialOf = /^(.+\.(?:gguf|safetensors))\.[0-9A-Za-z]*\.partial$/.exec(entry.name)?.[1]
      if (partialOf !== undefined) {
        const { size } = await fs.stat(full)
        found.push({
          name: nameOf(cacheDir, path.join(folder, partialOf)),
          path: full,
          bytes: size,
          sha256: undefined,
          source: undefined,
          partial: true,
        })
      } else if (entry.isFile() && entry.name.endsWith('.gguf')) {
        const file = await storedFile(full)
        if (file) found.push({ ...file, name: nameOf(cacheDir, full), partial: false })
      }
    }
  }
  await visit(cacheDir)
  return found.sort((a, b) => (a.name < b.name ? -1 : 1))
}

const nameOf = (cacheDir: string, full: string) => path.relative(cacheDir, full).split(path.sep).join('/')

/** What a model file holds. */
export interface ModelInspection {
  readonly kind: 'gguf' | 'safetensors'
  readonly config: ModelConfig
  /** Metadata of the file, without long lists. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly weights: readonly WeightInfo[]
  /** What is wrong with the files and does not keep the model from running, a sentence each. */
  readonly warnings: readonly string[]
  readonly parameters: number
  /** Bytes of all weights. */
  readonly weightBytes: number
  /** Weights by format. */
  readonly formats: readonly {
    readonly format: string
    readonly tensors: number
    readonly parameters: number
    readonly bytes: number
  }[]
  /** Bytes one token takes in an uncompressed cache, all layers, keys and values. */
  readonly kvBytesPerToken: { readonly f16: number; readonly f32: number }
}

/** Opens a model and says what it holds; reads no weights. Throws as `openModelFiles` does. */
export async function inspectModel(file: string): Promise<ModelInspection> {
  const { kind, config, metadata, weights, warnings } = await openModelFiles(file)
  const formats = new Map<string, { format: string; tensors: number; parameters: number; bytes: number }>()
  for (const { format, shape, bytes } of weights.values()) {
    const sum = formats.get(format) ?? { format, tensors: 0, parameters: 0, bytes: 0 }
    formats.set(format, {
      format,
      tensors: sum.tensors + 1,
      parameters: sum.parameters + shape.reduce((product, size) => product * size, 1),
      bytes: sum.bytes + bytes,
    })
  }
  const byFormat = [...formats.values()].sort((a, b) => b.bytes - a.bytes)
  const values = config.layers * config.kvHeads * (config.keyDim + config.valueDim)
  return {
    kind,
    config,
    metadata,
    weights: [...weights.values()],
    warnings,
    parameters: byFormat.reduce((sum, each) => sum + each.parameters, 0),
    weightBytes: byFormat.reduce((sum, each) => sum + each.bytes, 0),
    formats: byFormat,
    kvBytesPerToken: { f16: 2 * values, f32: 4 * values },
  }
}
