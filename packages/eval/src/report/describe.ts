/** Turns compressors and machines into plain data for a report. Nothing here names a host or a user. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { arch, cpus, platform, totalmem } from 'node:os'
import type { Json, KVCompressor, Window } from '@kvloom/core'
import { version_core as tfjsVersion } from '@tensorflow/tfjs-core'
import type { CompositionReport, Report } from './schema'

const unlimited = (value: number): number | null => (Number.isFinite(value) ? value : null)
const windowData = ({ recent, block, drain }: Window) => ({ recent: unlimited(recent), block, drain })

/** A composition that has not run yet. */
export function describeComposition(name: string, compressor: KVCompressor): CompositionReport {
  const { window } = compressor
  return {
    name,
    store: compressor.store ?? 'f16',
    ownRows: compressor.ownRows ?? 'exact',
    stages: compressor.stages.map((s) => ({
      kind: s.kind,
      id: s.id,
      when: typeof s.when === 'string' ? s.when : { everyTokens: s.when.everyTokens },
      options: jsonOf(s.options),
      part: s.on?.part ?? null,
      layers: s.on?.layers ? [...s.on.layers] : null,
      except: s.on?.except ? [...s.on.except] : null,
    })),
    window: window ? { sinks: window.sinks, keys: windowData(window.keys), values: windowData(window.values) } : null,
    status: 'pending',
    result: null,
    error: null,
    notes: [],
    artifacts: [],
  }
}

/** A deep, mutable copy as JSON. */
const jsonOf = (value: Json): ReturnType<typeof JSON.parse> => JSON.parse(JSON.stringify(value ?? null))

/** Cores, CPU model, memory, platform and Node; no names of hosts or users. */
export function describeMachine(backend: string): Report['machine'] {
  const cores = cpus()
  return {
    cpu: cores[0]?.model.trim() ?? 'unknown',
    cores: cores.length,
    memoryGiB: Math.round((totalmem() / 2 ** 30) * 10) / 10,
    platform: platform(),
    architecture: arch(),
    node: process.versions.node,
    backend,
  }
}

/** Versions of what made the numbers. */
export async function describeVersions(): Promise<Record<string, string>> {
  return { 'kvloom-eval': await ownVersion(), tfjs: tfjsVersion, node: process.versions.node }
}

async function ownVersion(): Promise<string> {
  try {
    const path = createRequire(import.meta.url).resolve('@kvloom/eval/package.json')
    const { version } = JSON.parse(await readFile(path, 'utf8')) as { version?: string }
    return version ?? 'unknown'
  } catch {
    return 'unknown'
  }
}
