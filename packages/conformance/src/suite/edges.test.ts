/** What the suite checks at the edges: each promise with a toy that breaks it. */
import {
  compose,
  defineMethod,
  definePick,
  defineQuantizer,
  defineScorer,
  evenWindows,
  fraction,
  integer,
  type KVCompressor,
  KvloomError,
  window,
} from '@kvloom/core'
import type { TestRunner } from '@kvloom/golden'
import { clone, dispose, keep, mul, neg, norm, scalar, type Tensor, zeros } from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { type SuiteOptions, testCompressor } from './compressor'
import { missingRows, sizesOf } from './promises'
import { deadRows, residentOf } from './resident'
import { drawOptions, testSettings } from './settings'
import { seeded, shapesOf, syntheticModel } from './shapes'

const model = syntheticModel({ queryHeads: 2, kvHeads: 1, keyDim: 32, valueDim: 32 })
const small = { backends: ['wasm'], shapes: shapesOf(2).slice(0, 1), prompt: 30, decode: 10 } as const

/** What the tests declare, run one after the other: the failures as `name: message`. */
async function failures(declare: (runner: TestRunner) => void, only = ''): Promise<string[]> {
  const failed: string[] = []
  const tests: { name: string; body: () => Promise<void> }[] = []
  declare({ describe: (_, body) => body(), it: (name, body) => tests.push({ name, body: () => body() }), expect })
  for (const { name, body } of tests.filter((test) => test.name.includes(only)))
    try {
      await body()
    } catch (error) {
      failed.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  return failed
}

const failuresOf = (make: () => KVCompressor, only: string, options: Partial<SuiteOptions> = {}) =>
  failures((runner) => testCompressor(runner, { ...small, name: 'toy', make, ...options }), only)

const PROMISES = 'keeps what it promises'
const LONG = 'takes hardly more bytes'
const NUMBERS = 'answers large numbers right'
const IDENTITY = 'with its identity settings'

/** Rows as they are; `also` sees every block that is sealed. */
const plain = (also: (rows: Tensor) => Tensor, largest = Number.MAX_VALUE) =>
  defineQuantizer({
    name: 'plain',
    options: { block: integer({ default: 8, min: 1, doc: '' }) },
    store: () => 'f32',
    window: ({ block }) => evenWindows({ block, drain: 'all' }),
    quantizer: () => ({
      layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
      rowsPerGroup: 1,
      largest,
      theoreticalBitsPerValue: 32,
      encode: (rows) => ({ rows: also(rows) }),
      decode: ({ rows }) => clone(rows),
    }),
  })()

const norms = (count: (tokens: number) => number) =>
  defineScorer({
    name: 'norms',
    needs: { keys: { of: 'keys' } },
    count,
    score: ({ keys }) => neg(norm(keys, 2, 2)),
  })()

describe('at the edges the suite finds', () => {
  it('nothing wrong with a sound compressor', async () => {
    const sound = () =>
      compose(
        defineScorer({
          name: 'sound',
          needs: { keys: { of: 'keys' } },
          protect: () => ({ first: 2, last: 5 }),
          score: ({ keys }) => neg(norm(keys, 2, 2)),
        })({ keep: 0.01 }),
        plain((rows) => mul(rows, 1)),
      )
    for (const only of [PROMISES, LONG, NUMBERS]) expect(await failuresOf(sound, only)).toEqual([])
  })

  it('promised rows that go', async () => {
    const oldest = definePick({
      name: 'oldest',
      options: {},
      by: 'positions',
      pick: () => ({
        needs: {},
        positions: 'original',
        protect: { last: 3 },
        count: (tokens) => Math.ceil(tokens / 2),
        keep: (_, count) => [{ start: 0, end: count }],
      }),
    })
    expect((await failuresOf(() => oldest(), PROMISES)).join()).toMatch(/lost promised tokens/)
  })

  it('a second prompt that is taken for the first', async () => {
    const forgetful = defineScorer({
      name: 'forgetful',
      needs: { queries: { of: 'queries', last: Number.POSITIVE_INFINITY }, keys: { of: 'keys' } },
      score({ queries, keys }) {
        if (queries.shape[1] !== keys.shape[1]) throw new Error('as many queries as keys, please')
        return neg(norm(keys, 2, 2))
      },
    })
    expect((await failuresOf(() => forgetful({ keep: 0.5 }), PROMISES)).join()).toMatch(/as many queries as keys/)
  })

  it('heads without a row, and what of promises is missing', () => {
    const head = (positions: readonly number[]) => ({ keys: [], values: [], positions: Int32Array.from(positions) })
    const none = { first: 0, last: 0 }
    expect(missingRows([head([3]), head([-1])], 4, none, 'layer 0')).toEqual([
      'layer 0, head 1 holds no row after 4 tokens',
    ])
    expect(missingRows([head([0, 1, 5, 6])], 7, { first: 2, last: 2 }, 'layer 0')).toEqual([])
    expect(missingRows([head([0, 5, 6])], 7, { first: 2, last: 3 }, 'layer 0').join()).toMatch(
      /lost promised tokens 1, 4 of 7/,
    )
    expect(missingRows([head([0])], 1, { first: 4, last: 4 }, 'layer 0')).toEqual([])
  })

  it('pages that are hardly used, and dropped rows that nothing needs', () => {
    const page = () => ({ rows: zeros([1, 16, 4]) })
    const pages = [page(), page(), page()]
    const segment = (block: { rows: Tensor } | undefined, rows: number) => ({
      zone: 'window' as const,
      block: block ?? {},
      tensors: Object.values(block ?? {}),
      from: 0,
      rows,
      capacity: 16,
      layout: { kind: 'dense', store: 'f32' } as const,
    })
    const bytes = 16 * 4 * 4
    const idle = residentOf(pages.map((tensors) => segment(tensors, 1)))
    expect(idle).toEqual({ held: 3 * bytes, needed: (3 * bytes) / 16, page: bytes })
    // Two views of one page hold it once.
    expect(residentOf([segment(pages[0], 4), segment(pages[0], 4)])).toEqual({
      held: bytes,
      needed: bytes / 2,
      page: bytes,
    })
    dispose(pages.map(({ rows }) => rows))
    const positions = [Int32Array.of(-1, -1, -1, 3, -1, 5)]
    const parts = [
      [
        { zone: 'sealed', rows: 2 },
        { zone: 'sealed', rows: 2 },
        { zone: 'window', rows: 2 },
      ] as const,
    ]
    expect(deadRows(positions, parts)).toEqual([0, 1, 4])
  })

  it('tensors that leak late', async () => {
    let sealed = 0
    const leaking = () =>
      plain((rows) => {
        if (++sealed % 100 === 99) keep(scalar(1))
        return mul(rows, 1)
      })
    expect((await failuresOf(leaking, LONG)).join()).toMatch(/the ledger says/)
  })

  it('large numbers that become wrong ones', async () => {
    const doubled = () => plain((rows) => mul(mul(rows, 1e34), 1e-34))
    expect((await failuresOf(doubled, NUMBERS)).join()).toMatch(/65000 in the keys of layer 0/)
    const limited = () => plain((rows) => mul(mul(rows, 1e34), 1e-34), 1e4)
    expect(await failuresOf(limited, NUMBERS)).toEqual([])
  })

  it('settings that lose something at a second prompt', async () => {
    const once = () =>
      window(
        { store: 'f32' },
        norms((tokens) => (tokens > 66 ? tokens - 30 : tokens)),
      )
    expect((await failuresOf(() => plain((rows) => mul(rows, 1)), IDENTITY, { identity: once })).join()).toMatch(
      /over two prompts/,
    )
    const never = () =>
      window(
        { store: 'f32' },
        norms((tokens) => tokens),
      )
    expect(await failuresOf(() => plain((rows) => mul(rows, 1)), IDENTITY, { identity: never })).toEqual([])
  })
})

describe('settings', () => {
  const grouped = (refuses: boolean) =>
    defineMethod(
      { name: 'grouped', title: '', summary: '', chunkInvariant: true },
      { group: integer({ default: 4, min: 1, max: 8, doc: '' }), keep: fraction({ default: 1, doc: '' }) },
      ({ group }) => {
        if (group === 3 && refuses) throw new KvloomError('GROUP', 'a group of 3')
        return plain((rows) => {
          if (group === 3) throw new Error('3 does not divide')
          return mul(rows, 1)
        })
      },
    )
  const run = (refuses: boolean) =>
    failures((runner) =>
      testSettings(runner, { name: 'grouped', methods: [grouped(refuses)], samples: 12, shapes: [model] }),
    )

  it('are refused by name or found out', async () => {
    expect((await run(false)).join()).toMatch(/"group":3.*3 does not divide/s)
    expect(await run(true)).toEqual([])
  })

  it('are valid, repeatable and at the edges', () => {
    const { options } = grouped(true)
    const draw = (seed: number) => {
      const random = seeded(seed)
      return Array.from({ length: 60 }, () => drawOptions(options, random))
    }
    expect(draw(3)).toEqual(draw(3))
    for (const drawn of draw(3))
      for (const [name, value] of Object.entries(drawn))
        expect(options[name as keyof typeof options].valid(value)).toBe(true)
    expect(draw(3).some(({ keep }) => keep === 1e-6)).toBe(true)
    expect(draw(3).some(({ group }) => group === 1)).toBe(true)
  })

  it('have sizes that prompts are cut by', () => {
    expect(
      sizesOf(
        plain((rows) => rows),
        model,
      ),
    ).toEqual([8])
  })
})
