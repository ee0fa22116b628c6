// Interleaved timing: every round runs each candidate once, in turn, so that drift of the machine hits all alike.
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'

/** One thing to time. `run` resolves when the device has finished. */
export interface Candidate {
  readonly name: string
  readonly run: () => Promise<void>
}

/** Milliseconds over all rounds. */
export interface Timing {
  readonly name: string
  readonly min: number
  readonly quartile1: number
  readonly median: number
  readonly quartile3: number
  readonly rounds: number
  /** Median over rounds of this candidate's time divided by the first candidate's of the same round. */
  readonly ratioToFirst: number
}

/** Times candidates in turn, after `warmup` rounds that are not counted. */
export async function interleave(candidates: readonly Candidate[], rounds: number, warmup = 3): Promise<Timing[]> {
  const times = candidates.map(() => [] as number[])
  for (let round = -warmup; round < rounds; round++)
    for (const [i, candidate] of candidates.entries()) {
      const start = performance.now()
      await candidate.run()
      if (round >= 0) times[i]?.push(performance.now() - start)
    }
  const first = times[0] ?? []
  return candidates.map(({ name }, i) => {
    const own = times[i] ?? []
    return {
      name,
      min: Math.min(...own),
      quartile1: quantile(own, 0.25),
      median: quantile(own, 0.5),
      quartile3: quantile(own, 0.75),
      rounds,
      ratioToFirst: quantile(
        own.map((t, round) => t / (first[round] ?? Number.NaN)),
        0.5,
      ),
    }
  })
}

const quantile = (values: readonly number[], q: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const [low, high] = [sorted[Math.floor(at)] ?? Number.NaN, sorted[Math.ceil(at)] ?? Number.NaN]
  return low + (high - low) * (at - Math.floor(at))
}

/** What ran it, without names of places. */
export const machine = () => ({
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  cores: cpus().length,
  node: process.version,
  platform: process.platform,
  load1: Math.round((loadavg()[0] ?? 0) * 100) / 100,
})

/** Writes `results/NAME.json` and prints the timings that it holds. */
export async function keep(
  name: string,
  result: Record<string, unknown> & { readonly timings?: readonly Timing[] },
): Promise<void> {
  const folder = new URL('../results/', import.meta.url)
  await mkdir(folder, { recursive: true })
  const file = fileURLToPath(new URL(`${name}.json`, folder))
  await writeFile(file, `${JSON.stringify({ schemaVersion: 1, machine: machine(), ...result }, null, 2)}\n`)
  process.stdout.write(`${name}\n`)
  for (const t of result.timings ?? [])
    process.stdout.write(
      `  ${t.name.padEnd(34)} median ${t.median.toFixed(2)} ms  min ${t.min.toFixed(2)}  quartiles ${t.quartile1.toFixed(2)}-${t.quartile3.toFixed(2)}  x${t.ratioToFirst.toFixed(2)}\n`,
    )
}
