/** `kvloom model pull | list | inspect`. */

import { defaultCacheDir, inspectModel, knownModels, listModels } from '@kvloom/engine'
import Table from 'cli-table3'
import { EXIT } from '../errors'
import { fetchModel } from '../models'
import { interruptible } from '../terminal/interrupt'

export interface ModelFlags {
  readonly cacheDir?: string
  readonly offline?: boolean
  readonly json?: boolean
}

/** Fetches a model and says where it lies. */
export const pullCommand = (name: string, flags: ModelFlags): Promise<number> =>
  interruptible(async (signal) => {
    const { path, source, bytes, sha256 } = await fetchModel(name, flags, signal)
    process.stdout.write(`${path}\n`)
    process.stderr.write(`kvloom: ${mebibytes(bytes)}, from ${source}${sha256 ? `, sha256 ${sha256}` : ''}\n`)
    return EXIT.ok
  })

/** What is in the cache, and which short names there are. */
export async function listCommand(flags: ModelFlags): Promise<number> {
  const folder = flags.cacheDir ?? defaultCacheDir()
  const models = await listModels(folder)
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ folder, models }, null, 2)}\n`)
    return EXIT.ok
  }
  if (models.length === 0) process.stdout.write(`No model is in ${folder}.\n`)
  else {
    const table = new Table({ head: ['model', 'size', 'from'], style: { head: [], border: [], compact: true } })
    for (const { name, bytes, source, partial } of models)
      table.push([name, mebibytes(bytes), partial ? 'unfinished download' : (source ?? 'put there by hand')])
    process.stdout.write(`${folder}\n${table.toString()}\n`)
  }
  process.stdout.write(
    `Known by name: tiny (bundled), ${knownModels.map((m) => `${m.name} (${mebibytes(m.bytes)})`).join(', ')}\n`,
  )
  return EXIT.ok
}

/** What a model file holds. */
export const inspectCommand = (name: string, flags: ModelFlags): Promise<number> =>
  interruptible(async (signal) => {
    const { path } = await fetchModel(name, { ...flags, offline: true }, signal)
    const { kind, config, parameters, weightBytes, formats, kvBytesPerToken, warnings } = await inspectModel(path)
    if (flags.json) {
      process.stdout.write(
        `${JSON.stringify({ path, kind, config, parameters, weightBytes, formats, kvBytesPerToken, warnings }, null, 2)}\n`,
      )
      return EXIT.ok
    }
    const lines: readonly (readonly [string, string])[] = [
      ['file', path],
      ['kind', `${kind}, ${config.architecture}`],
      ['parameters', parameters.toLocaleString('en')],
      ['weights', `${mebibytes(weightBytes)}: ${formats.map((f) => `${f.tensors} ${f.format}`).join(', ')}`],
      ['layers', String(config.layers)],
      ['heads', `${config.queryHeads} query, ${config.kvHeads} KV, ${config.keyDim} wide`],
      ['vocabulary', String(config.vocabSize)],
      ['context', `${config.contextLength} tokens`],
      ['end tokens', config.eosIds.join(', ') || 'none'],
      ['KV cache', `${kvBytesPerToken.f16} bytes a token in f16, ${kvBytesPerToken.f32} in f32`],
    ]
    process.stdout.write(`${lines.map(([term, value]) => `${term.padEnd(12)}${value}`).join('\n')}\n`)
    for (const warning of warnings) process.stderr.write(`kvloom: ${warning}\n`)
    return EXIT.ok
  })

const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
