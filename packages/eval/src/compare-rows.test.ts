import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defineScorer, type KVCompressor, ModelMismatch } from '@kvloom/core'
import { memory, neg, norm } from '@tensorflow/tfjs-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { compareRows } from './compare-rows'
import { readReport } from './report/file'
import { renderHtml } from './report/html'
import type { Report } from './report/schema'
import { renderTable } from './report/terminal'
import { UNCOMPRESSED } from './run/comparison'
import type { CompareRowsOptions } from './run/options'
import { protocolE, protocolP, protocolW } from './run/plan'
import { type FakeModel, fakeIds, fakeModel, fakeShape } from './testing/fake-model'

const lowNorm = defineScorer({
  name: 'low-norm',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => neg(norm(keys, 'euclidean', 2)),
})
const half: KVCompressor = { ...UNCOMPRESSED, store: 'f16' }
/** Binds nowhere: fails when its cache is opened. */
const misfit: KVCompressor = {
  ...lowNorm(),
  stages: lowNorm().stages.map((s) => ({
    ...s,
    bind: () => {
      throw new ModelMismatch('misfit', 'it has no dims.', 'Use another.')
    },
  })) as unknown as KVCompressor['stages'],
}

let model: FakeModel
let folder: string
let onForward: (call: number) => void

beforeEach(async () => {
  onForward = () => undefined
  model = await fakeModel((call) => onForward(call))
  folder = await mkdtemp(join(tmpdir(), 'kvloom-eval-'))
})
afterEach(async () => {
  model.dispose()
  await rm(folder, { recursive: true, force: true })
})

const wish = (more: Partial<CompareRowsOptions> = {}): CompareRowsOptions => ({
  model,
  backend: 'cpu',
  ids: fakeIds(120),
  textName: 'fake',
  plan: protocolE({ tokens: 96, promptTokens: 64 }),
  compositions: [
    { name: 'f16', compressor: half },
    { name: 'low-norm', compressor: lowNorm({ keep: 0.25 }) },
  ],
  decodeTokens: 4,
  file: join(folder, 'report.json'),
  ...more,
})

describe('compare', () => {
  it('measures quality, bytes and time of every composition', async () => {
    const before = memory().numBytes
    const report = await compareRows(wish())
    expect(memory().numBytes).toBe(before)
    expect(report.status).toBe('complete')
    const [f16, evicted] = report.compositions.map((c) => c.result!)
    const base = report.baseline.result!
    expect(base.quality).toMatchObject({ meanKld: 0, kld99: 0, top1: 1 })
    expect(base.quality.attentionError).toEqual([0, 0])
    expect(f16!.quality.meanKld).toBeLessThan(1e-4)
    // f16 rounds to 5e-4 of a value.
    expect(f16!.quality.perplexity / base.quality.perplexity).toBeCloseTo(1, 2)
    expect(evicted!.quality.meanKld).toBeGreaterThan(f16!.quality.meanKld)
    expect(evicted!.quality.attentionError.every((e) => e > 0)).toBe(true)
    // The headline is taken when the prompt ends: 16 of 64 tokens stay, at 16 bits.
    expect(evicted!.footprint).toMatchObject({ tokens: 64, keptFraction: 0.25, theoreticalBits: 4 })
    // Over the live quarter alone it is f16 and what little state there is.
    expect(evicted!.footprint.liveBits).toBeCloseTo(evicted!.footprint.residentBits * 4, 9)
    expect(f16!.footprint.theoreticalBits).toBe(16)
    expect(evicted!.footprintAtEnd.tokens).toBe(96)
    expect(f16!.footprint.residentBits).toBe(
      (f16!.footprint.ledger.total * 8) / (64 * fakeShape.layers * fakeShape.kvHeads * 64),
    )
    expect(evicted!.bytesOverTokens.map((b) => b.tokens)).toEqual([0, 64, 96])
    expect(evicted!.times.decode?.count).toBe(4)
    expect(evicted!.overhead.decode).not.toBeNull()
  })

  it('protocol P: a chunk of one token is decoding, and larger chunks of an exact cache score the same', async () => {
    const plan = (chunk: number) => protocolP({ tokens: 48, chunk, scoreFrom: 16 })
    const single = await compareRows(wish({ plan: plan(1) }))
    const chunked = await compareRows(wish({ plan: plan(16) }))
    expect(single.baseline.result!.quality.perplexity).toBeCloseTo(chunked.baseline.result!.quality.perplexity, 4)
    expect(single.baseline.result!.times.prefill).toBeNull()
    expect(chunked.compositions[1]!.notes[0]).toContain('low-norm acts at the end of a prompt, and protocol P has none')
  })

  it('protocol W scores one prompt, feeds on for the bytes, and says when own rows were exact', async () => {
    const sealing = {
      ...lowNorm(),
      stages: [{ ...lowNorm().stages[0]!, when: 'seal' as const }],
    } as KVCompressor
    const plan = protocolW({ tokens: 96, scoreFrom: 16, scoreTo: 64, chunk: 32 })
    const report = await compareRows(wish({ plan, compositions: [{ name: 'f16', compressor: half }] }))
    const whole = await compareRows(wish({ plan: protocolP({ tokens: 64, chunk: 64, scoreFrom: 16 }) }))
    expect(report.protocol).toMatchObject({ name: 'W', promptTokens: 96, scoredTargets: { from: 16, to: 64 } })
    expect(report.baseline.result!.quality.perplexity).toBeCloseTo(whole.baseline.result!.quality.perplexity, 4)
    expect(report.compositions[0]!.result!.footprint.tokens).toBe(96)
    expect(report.compositions[0]!.notes).toEqual([])
    expect(renderHtml(report)).toContain('Protocol W')
    const noted = await compareRows(wish({ plan, compositions: [{ name: 'seals', compressor: sealing }] }))
    expect(noted.compositions[0]!.notes[0]).toMatch(/32 tokens attended exactly to itself.*ownRows/)
  })

  it('prepares a row before it runs, with progress, and frees it afterwards', async () => {
    const artifact = { stage: 'learned', fingerprint: 'f', json: null, tensors: {} }
    const other = await fakeModel()
    let disposed = 0
    const activities: string[] = []
    const report = await compareRows(
      wish({
        prepare: async ({ name }, busy) => {
          if (name === 'f16') return {}
          busy({ activity: 'fitting', detail: 'layer 1/2', secondsLeft: 3 })
          return { model: other, artifacts: [artifact], dispose: () => disposed++ }
        },
        onProgress: ({ name, activity, detail, secondsLeft }) => {
          if (activity !== null) activities.push(`${name}: ${activity}, ${detail}, ${secondsLeft}`)
        },
      }),
    )
    other.dispose()
    expect(activities).toEqual(['low-norm: fitting, layer 1/2, 3'])
    expect(disposed).toBe(1)
    expect(other.calls).toBeGreaterThan(0)
    // It was timed while its model was loaded, and f16 at the end.
    expect(report.compositions.map((c) => c.result!.times.ratios.decode?.count)).toEqual([4, 4])
    expect(report.protocol.timing?.groups).toBe(2)
    expect(report.compositions.map((c) => c.artifacts)).toEqual([[], [{ stage: 'learned', fingerprint: 'f' }]])
  })

  it('a row that cannot be prepared fails alone', async () => {
    const report = await compareRows(
      wish({
        prepare: async ({ name }) => {
          if (name === 'f16') throw new ModelMismatch('f16', 'no text.', 'Give one.')
          return {}
        },
      }),
    )
    expect(report.compositions.map((c) => c.status)).toEqual(['failed', 'done'])
  })

  it('keeps an error in its row and goes on', async () => {
    const report = await compareRows(
      wish({ compositions: [{ name: 'misfit', compressor: misfit }, ...wish().compositions] }),
    )
    expect(report.compositions.map((c) => c.status)).toEqual(['failed', 'done', 'done'])
    expect(report.compositions[0]!.error).toMatchObject({ name: 'ModelMismatch', code: 'MODEL_MISMATCH' })
    expect(renderHtml(report)).toContain('misfit does not fit this model')
    expect(renderTable(report)).toContain('failed: misfit does not fit this model')
  })

  it('has each finished composition on disk at once', async () => {
    const file = join(folder, 'report.json')
    const states: string[][] = []
    await compareRows(
      wish({
        onProgress: ({ index }) => {
          if (index < 2 || states.length > 0) return
          const report = JSON.parse(readFileSync(file, 'utf8')) as Report
          states.push([report.status, report.baseline.status, ...report.compositions.map((c) => c.status)])
        },
      }),
    )
    expect(states[0]).toEqual(['running', 'done', 'done', 'pending'])
    expect((await readdir(folder)).filter((name) => name.endsWith('.partial'))).toEqual([])
  })

  it('an abort keeps finished compositions and says so', async () => {
    const stop = new AbortController()
    const report = await compareRows(
      wish({
        signal: stop.signal,
        onProgress: ({ index, fraction }) => {
          if (index === 2 && fraction > 0.5) stop.abort()
        },
      }),
    )
    expect(report.status).toBe('interrupted')
    expect(report.compositions.map((c) => c.status)).toEqual(['done', 'interrupted'])
    expect((await readReport(join(folder, 'report.json'))).status).toBe('interrupted')
    expect(renderHtml(report)).toContain('Interrupted.')
  })

  it('takes times side by side after all rows are measured, the uncompressed one like the others', async () => {
    const before = memory().numTensors
    const seen: string[] = []
    const report = await compareRows(wish({ onProgress: ({ name }) => seen.push(name) }))
    expect(memory().numTensors).toBe(before)
    expect(report.protocol.timing).toEqual({ contextTokens: 64, warmUpRounds: 2, rounds: 4, groups: 1 })
    const rows = [report.baseline, ...report.compositions].map((row) => row.result!.times)
    // 64 tokens in eleven pieces of at most 6, the first a warm-up.
    for (const times of rows) expect([times.prefill?.count, times.decode?.count]).toEqual([10, 4])
    for (const times of rows) expect([times.ratios.prefill?.count, times.ratios.decode?.count]).toEqual([10, 4])
    expect(report.baseline.result!.overhead).toEqual({ prefill: 0, decode: 0 })
    expect(report.baseline.result!.times.ratios.decode).toMatchObject({ lowerQuartile: 1, upperQuartile: 1 })
    const [f16] = report.compositions
    expect(f16!.result!.overhead.decode).toBeCloseTo(f16!.result!.times.ratios.decode!.median - 1, 12)
    const measured = seen.lastIndexOf('low-norm')
    expect(seen.slice(measured + 1).every((name) => name === 'times of 3 rows, in turns')).toBe(true)
  })

  it('times rows in groups where their caches do not fit into memory together', async () => {
    const report = await compareRows(wish({ timingBytes: 1 }))
    expect(report.protocol.timing?.groups).toBe(2)
    expect(report.baseline.result!.times.decode?.count).toBe(8)
    for (const row of report.compositions) expect(row.result!.times.ratios.decode?.count).toBe(4)
  })

  it('times nothing when no steps are asked for', async () => {
    const report = await compareRows(wish({ decodeTokens: 0 }))
    expect(report.protocol).toMatchObject({ decodeTokens: 0, timing: null })
    expect(report.compositions[0]!.result!.times).toMatchObject({ prefill: null, decode: null, cacheShare: null })
    expect(report.compositions[0]!.result!.overhead).toEqual({ prefill: null, decode: null })
    expect(renderHtml(report)).toContain('Times were not taken')
    expect(renderTable(report)).not.toContain('decode: ms')
    await expect(compareRows(wish({ decodeTokens: -1 }))).rejects.toThrow(/decodeTokens is -1/)
  })

  it('an abort while times are taken keeps what is measured', async () => {
    const stop = new AbortController()
    const report = await compareRows(
      wish({
        signal: stop.signal,
        decodeTokens: 40,
        onProgress: ({ name, fraction }) => {
          if (name.startsWith('times') && fraction > 0.9) stop.abort()
        },
      }),
    )
    expect(report.status).toBe('interrupted')
    expect(report.compositions.map((c) => c.status)).toEqual(['done', 'done'])
    const { times, quality } = report.compositions[0]!.result!
    expect(quality.perplexity).toBeGreaterThan(1)
    expect(times.prefill?.count).toBe(10)
    expect(times.decode!.count).toBeGreaterThan(0)
    expect(times.decode!.count).toBeLessThan(40)
    expect(await readReport(join(folder, 'report.json'))).toEqual(report)
    const { count } = report.baseline.result!.times.decode!
    expect(renderTable(report)).toContain(`decode steps (${count} of 40)`)
    expect(renderHtml(report)).toContain('Times are missing, or of fewer rounds')
  })

  it('a row that fails while it is timed keeps its quality', async () => {
    const { bind, ...stage } = lowNorm({ keep: 0.25 }).stages[0]!
    let opened = 0
    const tiring = {
      ...lowNorm(),
      stages: [
        {
          ...stage,
          bind: (...args: Parameters<typeof bind>) => {
            // Checked, measured, then timed: each opens a cache, and each binds every layer.
            if (++opened > 2 * fakeShape.layers) throw new ModelMismatch('tiring', 'it is tired.', 'Let it rest.')
            return bind(...args)
          },
        },
      ],
    } as unknown as KVCompressor
    const report = await compareRows(
      wish({ compositions: [{ name: 'tiring', compressor: tiring }, ...wish().compositions] }),
    )
    const [row, f16] = report.compositions
    expect(report.status).toBe('complete')
    expect(row).toMatchObject({ status: 'done', result: { times: { decode: null }, overhead: { decode: null } } })
    expect(row!.result!.quality.perplexity).toBeGreaterThan(1)
    expect(row!.notes.join(' ')).toContain('Its times could not be taken to the end: tiring does not fit')
    expect(f16!.result!.times.ratios.decode?.count).toBe(4)
  })

  it('checks every row before the first one runs', async () => {
    const failed: number[] = []
    const asked: string[] = []
    const report = await compareRows(
      wish({
        compositions: [...wish().compositions, { name: 'misfit', compressor: misfit }],
        onRow: (row) => {
          if (row.status === 'failed') failed.push(model.calls)
        },
      }),
    )
    expect(failed).toEqual([0])
    expect(report.compositions.map((c) => c.status)).toEqual(['done', 'done', 'failed'])
    const own = await compareRows(
      wish({
        check: ({ name }) => {
          asked.push(name)
          if (name === 'f16') throw new ModelMismatch('f16', 'no.', 'Another.')
        },
      }),
    )
    expect(asked).toEqual(['f16', 'low-norm'])
    expect(own.compositions.map((c) => c.status)).toEqual(['failed', 'done'])
  })

  it('runs nothing when no row can run', async () => {
    const report = await compareRows(wish({ compositions: [{ name: 'misfit', compressor: misfit }] }))
    expect(model.calls).toBe(0)
    expect([report.status, report.baseline.status]).toEqual(['complete', 'skipped'])
    expect(renderTable(report)).toContain('not run: no row could run')
    expect(renderHtml(report)).toContain('1 of 2 runs failed')
  })

  it('says what puzzles: layers that keep everything, windows that are not full, 32 bits', async () => {
    const some = lowNorm({ keep: 0.25 })
    const spared = {
      ...some,
      stages: some.stages.map((s) => ({ ...s, options: { skipLayers: [1] }, on: { layers: [0] } })),
    } as unknown as KVCompressor
    const report = await compareRows(wish({ compositions: [{ name: 'spared', compressor: spared }] }))
    expect(report.baseline.notes).toEqual([
      'Exact rows are held in 32 bits; bits by formula count every exact row as 16.',
    ])
    expect(report.compositions[0]!.notes).toEqual([
      'Layer 1 keeps every token, the other layer 25 % (low-norm has skipLayers=[1]).',
    ])
    expect(renderTable(report)).toContain('spared: Layer 1 keeps every token')
  })

  it('an abort before anything is finished still leaves a report', async () => {
    const report = await compareRows(wish({ signal: AbortSignal.abort() }))
    expect([report.status, report.baseline.status]).toEqual(['interrupted', 'interrupted'])
    expect(renderHtml(report)).toContain('Nothing to draw yet')
    expect(renderTable(report)).toContain('interrupted')
  })

  it('an uncompressed run that fails ends the comparison, and the file says so', async () => {
    onForward = () => {
      throw new Error('no weights')
    }
    await expect(compareRows(wish())).rejects.toThrow('no weights')
    expect(await readReport(join(folder, 'report.json'))).toMatchObject({
      status: 'failed',
      baseline: { status: 'failed' },
    })
  })

  it('reports progress with the time left', async () => {
    const left: (number | null)[] = []
    let last = 0
    await compareRows(
      wish({
        onProgress: ({ fraction, secondsLeft }) => {
          expect(fraction).toBeGreaterThanOrEqual(last)
          last = fraction
          left.push(secondsLeft)
        },
      }),
    )
    expect(last).toBe(1)
    expect(left[0]).toBeNull()
    expect(left.at(-1)).toBe(0)
  })

  it('refuses a text longer than the context before any work', async () => {
    await expect(
      compareRows(wish({ ids: fakeIds(600), plan: protocolP({ tokens: 512, chunk: 64, scoreFrom: 1 }) })),
    ).rejects.toThrow(/at most 512, the model's context/)
    await expect(compareRows(wish({ ids: fakeIds(10) }))).rejects.toThrow(/Give a longer text/)
    expect(model.calls).toBe(0)
  })

  it('hits a passkey only when the digits are most likely', async () => {
    const trial = { context: fakeIds(20), question: fakeIds(4), answer: fakeIds(3), digits: { from: 0, to: 3 } }
    const report = await compareRows(wish({ passkeyTrials: [trial] }))
    expect(report.baseline.result!.passkey).toMatchObject({ trials: 1, contextTokens: 20 })
    expect(report.baseline.result!.passkey!.meanLogProbability).toBeLessThan(0)
  })
})

describe('report files', () => {
  it('are refused when damaged, foreign or of another version', async () => {
    const file = join(folder, 'report.json')
    await compareRows(wish({ file }))
    const good = JSON.parse(await readFile(file, 'utf8'))
    const check = async (value: unknown): Promise<unknown> => {
      await writeFile(file, typeof value === 'string' ? value : JSON.stringify(value))
      return readReport(file)
    }
    await expect(check(good)).resolves.toEqual(good)
    await expect(check('{')).rejects.toThrow(/is not JSON/)
    await expect(check({ ...good, schemaVersion: 99 })).rejects.toThrow(
      /schema version 99; this kvloom reads version 2/,
    )
    await expect(check({ ...good, seed: 'x' })).rejects.toThrow(/seed: /)
    await expect(readReport(join(folder, 'none.json'))).rejects.toThrow(/cannot be read/)
  })
  it('name neither host nor user', async () => {
    const text = JSON.stringify(await compareRows(wish()))
    const { hostname, userInfo } = await import('node:os')
    for (const word of [hostname(), userInfo().username]) if (word.length > 4) expect(text).not.toContain(word)
  })
  it('are one page without scripts or anything from elsewhere', async () => {
    const html = renderHtml(await compareRows(wish()))
    expect(html).toContain('<svg')
    expect(html).not.toMatch(/<script|<link|@import|src=|url\(/)
  })
  it('show the same tables of the model in the terminal and on the page', async () => {
    const report = await compareRows(wish({ decodeTokens: 0 }))
    const { footprint, footprintAtEnd } = report.compositions[0]!.result!
    // The rotary tables of a model grow with the positions it has seen.
    Object.assign(footprint, { ledger: { ...footprint.ledger, perModel: 77 * 1024 } })
    Object.assign(footprintAtEnd, { ledger: { ...footprintAtEnd.ledger, perModel: 177 * 1024 } })
    for (const shown of [renderTable(report), renderHtml(report)]) {
      expect(shown).toContain('177 KiB')
      expect(shown).not.toContain('77.0 KiB')
    }
  })
  it('draw every plot for a page and for a phone, with the numbers of the table', async () => {
    const html = renderHtml(await compareRows(wish({ decodeTokens: 0 })))
    expect(html.match(/<div class="wide">/g)).toHaveLength(3)
    expect(html.match(/<div class="narrow">/g)).toHaveLength(3)
    const [pareto = ''] = /<section aria-labelledby="pareto">[\s\S]*?<\/section>/.exec(html) ?? []
    for (const [place, name] of ['f16', 'low-norm'].entries()) {
      expect(pareto).toMatch(new RegExp(`<span class="number">${place + 1}</span></span>${name}</li>`))
      expect(pareto).toMatch(
        new RegExp(`fill="var\\(--series-${place}\\)" aria-label="text"><text[^>]*>${place + 1}</text>`),
      )
    }
    expect(html).toMatch(/@media \(max-width: 640px\).*\.wide \{ display: none; \} \.narrow \{ display: block; \}/)
  })
  it('say where they cannot be written', async () => {
    await writeFile(join(folder, 'blocked'), '')
    await expect(compareRows(wish({ file: join(folder, 'blocked', 'report.json') }))).rejects.toThrow(
      /cannot be written .* Choose another folder/,
    )
  })
})
