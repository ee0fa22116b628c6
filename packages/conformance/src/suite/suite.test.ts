/** The suite itself: it passes toys of every stage kind, and finds what is wrong with broken ones. */
import {
  compose,
  defineQuantizer,
  defineScorer,
  evenWindows,
  type HostTensor,
  integer,
  type KVCompressor,
  ownRows,
  type Recall,
  type Resample,
  type Space,
  type Stage,
  sharedTokens,
  window,
} from '@kvloom/core'
import { type TestRunner, testGolden } from '@kvloom/golden'
import {
  add,
  clone,
  max,
  memory,
  mul,
  neg,
  norm,
  pad,
  reshape,
  scalar,
  slice,
  type Tensor1D,
  type Tensor3D,
  tensor2d,
} from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { type SuiteOptions, testCompressor } from './compressor'
import { testSettings } from './settings'
import { shapesOf } from './shapes'
import { syntheticRun } from './synthetic-run'

const runner = { describe, it, expect }
const small = { backends: ['wasm'], shapes: shapesOf(3).slice(0, 1), prompt: 30, decode: 40 } as const

/** Rows as they are, times what a fit found (1). Broken: decodes something else every time. */
const scaled = (broken = false) => {
  let decoded = 0
  return defineQuantizer({
    name: 'scaled',
    options: { block: integer({ default: 8, min: 1, doc: '' }) },
    rope: 'pre',
    store: () => 'f32',
    window: ({ block }) => evenWindows({ sinks: 2, block, drain: 'all' }),
    fit: () => ({
      scope: 'layer',
      run: async ({ target }) => ({
        json: { sequences: target.length },
        tensors: { one: { shape: [1], values: Float32Array.of(1) } },
      }),
    }),
    quantizer: (_, site, artifact) => {
      const one = site.hold(artifact?.tensors[`${site.layer}.${site.part}.one`] as HostTensor)
      return {
        layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
        rowsPerGroup: 1,
        theoreticalBitsPerValue: 32,
        encode: (rows) => ({ rows: mul(rows, one) }),
        decode: ({ rows }) => (broken ? add(rows, 1e-3 * decoded++) : clone(rows)),
      }
    },
  })
}

const norms = defineScorer({
  name: 'norms',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => neg(norm(keys, 2, 2)),
})

/** The first KV head keeps more than the second. */
const uneven: KVCompressor = {
  card: { name: 'uneven', title: '', summary: '', chunkInvariant: true },
  stages: [
    {
      kind: 'budget',
      id: 'uneven',
      options: null,
      when: 'promptEnd',
      facts: { ragged: true },
      accepts: (space) => ({ ...space, tokenSets: 'head' }),
      bind: () => ({
        ragged: true,
        counts: (scores, uniform) => {
          const more = Math.min(3, uniform, (scores[0]?.shape[1] ?? 0) - uniform)
          return scores.map((_, head) => uniform + (head === 0 ? more : -more))
        },
      }),
    },
  ],
}

const stageOf = (stage: Stage<'model'> | Stage<'recall'> | Stage<'resample'>): KVCompressor => ({
  card: { name: stage.id, title: '', summary: '', chunkInvariant: true },
  stages: [stage],
})
const accepts = (space: Space): Space => space

const share = (map: readonly number[]): KVCompressor =>
  stageOf({
    kind: 'model',
    id: 'share',
    options: { map },
    when: 'load',
    accepts,
    bind: () => ({ sourceLayer: (layer) => map[layer] ?? layer }),
  })

/** Reads the oldest indexed rows. Broken: names rows that are not there. */
const oldest = (tier: Recall['tier'], broken = false): KVCompressor =>
  stageOf({
    kind: 'recall',
    id: 'oldest',
    options: { tier },
    when: 'read',
    facts: { tier },
    accepts,
    bind: () => ({
      tier,
      sinks: 2,
      every: 5,
      budget: 12,
      index: async (keys) => ({ keys: clone(keys) }),
      select: async (queries, _, sizes, count) => {
        const from = broken ? sizes.reduce((a, b) => a + b, 0) : 0
        const heads = queries.shape[0] ?? 0
        const rows = Int32Array.from({ length: heads * count }, (_, i) => from + (i % count))
        return tensor2d(rows, [heads, count], 'int32')
      },
    }),
  })

const halving = (apply: Resample['apply']): KVCompressor => ({
  ...stageOf({
    kind: 'resample',
    id: 'halving',
    options: null,
    when: 'room',
    accepts: (space) => ({ ...space, rope: space.part === 'keys' ? 'pre' : 'none', slots: true }),
    bind: () => ({ sinks: 2, capacity: 18, to: 8, apply }),
  }),
  store: 'f32',
})
const firstHalf: Resample['apply'] = (rows) => slice(rows as Tensor3D, [0, 0, 0], [-1, 8, -1])

/** Reads the last eight tokens again and keeps what they attend to. */
const replaying = defineScorer({
  name: 'replaying',
  needs: { seen: { of: 'replay' } },
  replay: ({ tokens, encode }) => [
    { tokens: Int32Array.from([...encode('again'), ...tokens.slice(-8)]), from: 0, to: tokens.length },
  ],
  score: ({ seen }, _, { site }) => {
    const heads = seen.shape[0] === site.model.queryHeads ? site.model.kvHeads : 1
    return max(reshape(seen, [heads, -1, seen.shape[1] ?? 0]), 1)
  },
})

/** Keeps the tokens whose hidden states are largest, among the newest twelve. */
const byHidden = defineScorer({
  name: 'by-hidden',
  needs: { states: { of: 'hidden', last: 12 }, positions: { of: 'positions' } },
  score: ({ states, positions }) => {
    const lengths = norm(states, 'euclidean', 1)
    return reshape(pad(lengths as Tensor1D, [[(positions.shape[1] ?? 0) - lengths.size, 0]]), [1, -1])
  },
})

const toys: Readonly<Record<string, Partial<SuiteOptions> & Pick<SuiteOptions, 'make'>>> = {
  'fitted quantizer': { make: () => scaled()(), identity: () => scaled()() },
  'own rows as stored': { make: () => ownRows('stored', scaled()({ block: 1 })) },
  'shared layers, fitted': { make: () => compose(share([0, 0, 2]), scaled()()) },
  'ragged heads': { make: () => compose(norms({ keep: 0.5 }), uneven) },
  'ragged heads, fitted quantizer, recall': {
    make: () => compose(norms({ keep: 0.5 }), uneven, scaled()(), oldest('device')),
  },
  'recall, device': { make: () => oldest('device') },
  'recall, host': { make: () => compose(scaled()(), oldest('host')) },
  'a replay of the context': { make: () => compose(replaying({ keep: 0.5 }), scaled()()) },
  'a replay, ragged heads': { make: () => compose(replaying({ keep: 0.5 }), uneven) },
  'hidden states': { make: () => compose(byHidden({ keep: 0.6 }), scaled()()) },
  'one set of tokens for the model': { make: () => compose(sharedTokens('model', norms({ keep: 0.5 })), scaled()()) },
  resampling: { make: () => halving(firstHalf) },
}
for (const [name, toy] of Object.entries(toys)) testCompressor(runner, { name, ...small, ...toy })
testCompressor(runner, { ...small, name: 'on cpu', make: () => compose(scaled()(), oldest('host')), backends: ['cpu'] })

/** Names of the tests that fail, skipped ones apart. */
async function failuresOf(make: () => KVCompressor, options: Partial<SuiteOptions> = {}): Promise<string[]> {
  const tests: { name: string; body: (...context: unknown[]) => Promise<void> }[] = []
  const collecting: TestRunner = {
    describe: (_, body) => body(),
    it: (name, body) => tests.push({ name, body }),
    expect,
  }
  testCompressor(collecting, { ...small, name: 'broken', make, ...options })
  const failed: string[] = []
  for (const { name, body } of tests)
    try {
      await body()
    } catch (error) {
      failed.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  return failed
}

describe('the suite finds', () => {
  it('nothing wrong with a sound compressor', async () => {
    expect(await failuresOf(() => scaled()())).toEqual([])
  })

  it('rows that change after they were sealed', async () => {
    expect((await failuresOf(() => scaled(true)())).join()).toMatch(/counts its bytes and never changes what is sealed/)
  })

  it('settings that lose something', async () => {
    const lossy = () => window({ store: 'f32' }, norms({ keep: 0.5 }))
    const failed = await failuresOf(() => scaled()(), { identity: lossy })
    expect(failed.map((line) => line.split(':')[0])).toEqual([
      'with its identity settings answers as a dense cache, over two prompts',
    ])
  })

  it('a cache that depends on how the prompt was cut', async () => {
    const failed = await failuresOf(() => scaled()({ block: 24 }), { chunkInvariant: true, prompt: 50 })
    expect(failed.map((line) => line.split(':')[0])).toEqual([
      'holds the same bits after a prompt in pieces as at once',
    ])
  })

  it('rows that a recall may not select', async () => {
    const failed = await failuresOf(() => oldest('host', true))
    expect(failed.join()).toMatch(/attends as plain attention/)
  })

  it('an answer that differs from one cache to the next', async () => {
    let calls = 0
    const failed = await failuresOf(() => halving((rows) => add(firstHalf(rows), 1e-3 * calls++)))
    expect(failed.join()).toMatch(/A fork answers differently/)
    expect(failed.join()).toMatch(/A restored cache answers differently/)
  })

  it('tensors that nobody frees', async () => {
    const before = memory().numTensors
    const leaking = (): KVCompressor => {
      const [stage] = share([0, 1, 2]).stages as readonly Stage<'model'>[]
      if (!stage) throw new Error('no stage')
      const bind: typeof stage.bind = (site) => {
        scalar(1)
        return stage.bind(site)
      }
      return stageOf({ ...stage, bind })
    }
    expect((await failuresOf(leaking)).length).toBeGreaterThan(5)
    expect(memory().numTensors).toBeGreaterThan(before)
  })

  it('a compressor that no shape fits', async () => {
    const failed = await failuresOf(() => share([0, 5]), { shapes: shapesOf(2).slice(0, 1) })
    expect(failed.map((line) => line.split(':')[0])).toEqual(['opens for at least one of the shapes'])
  })
})

describe('every test of the suites', () => {
  /** The limits that tests are declared with. */
  const limitsOf = (declare: (runner: TestRunner) => void): number[] => {
    const limits: (number | undefined)[] = []
    declare({
      describe: (_, body) => body(),
      it: (_name, _body, timeout) => limits.push(timeout),
      expect,
    })
    return [...new Set(limits.map((limit) => limit ?? 0))]
  }

  it('has a limit of its own, which does not depend on what the runner allows', () => {
    const method = scaled()
    for (const [timeout, limit] of [
      [undefined, 120_000],
      [7, 7],
    ] as const) {
      const given = timeout === undefined ? {} : { timeout }
      expect(limitsOf((to) => testCompressor(to, { name: 'scaled', make: () => method(), ...given }))).toEqual([limit])
      expect(limitsOf((to) => testSettings(to, { name: 'scaled', methods: [method], ...given }))).toEqual([limit])
      expect(
        limitsOf((to) => testGolden(to, { folder: new URL('.', import.meta.url), adapters: [], ...given })),
      ).toEqual([limit])
    }
  })
})

describe('syntheticRun', () => {
  const [model] = shapesOf(3)
  if (!model) throw new Error('no shape')

  it('is the same at every call, and rows are what its weights say', async () => {
    const [a, b] = [syntheticRun(model), syntheticRun(model)]
    expect(await a.rows(1)).toEqual(await b.rows(1))
    expect(await a.gradients(2)).toEqual(await b.gradients(2))
    expect(await a.sentences()).toEqual(await b.sentences())
    const name = 'layers.2.attention.value'
    expect(a.weights.names()).toContain(name)
    const weight = await a.weights.get(name)
    expect(weight.shape).toEqual([64, 160])
    const fisher = await a.weightFisher?.([name], { ahead: 1 })
    expect(fisher).toEqual(await b.weightFisher?.([name], { ahead: 1 }))
    expect(fisher).not.toEqual(await a.weightFisher?.([name], { ahead: 2 }))
    expect(fisher?.[name]?.shape).toEqual(weight.shape)
    expect(Math.min(...(fisher?.[name]?.values ?? []))).toBeGreaterThanOrEqual(0)
    weight.dispose()
    await expect(a.weights.get('layers.3.attention.value')).rejects.toThrow(/no weight/)
  })

  it('has layers that are alike, gradients without sign, and candidates that share turn away', async () => {
    const run = syntheticRun(model)
    const flat = async (layer: number) => (await run.rows(layer)).keys[0]?.values ?? new Float32Array()
    expect((await flat(0)).length).toBe(2 * 96 * 32)
    for (const { values } of (await run.gradients(0)).keys) expect(Math.min(...values)).toBeGreaterThanOrEqual(0)
    const [whole, one, two] = [
      await run.hidden(null),
      await run.hidden(share([0, 0, 2])),
      await run.hidden(share([0, 0, 0])),
    ]
    const away = ([states]: readonly HostTensor[]) => {
      let sum = 0
      for (const [i, x] of (states?.values ?? []).entries()) sum += Math.abs(x - (whole[0]?.values[i] ?? 0))
      return sum
    }
    expect(away(whole)).toBe(0)
    expect(away(one)).toBeGreaterThan(0)
    expect(away(two)).toBeGreaterThan(away(one))
  })
})
