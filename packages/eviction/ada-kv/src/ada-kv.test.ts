import { readFile } from 'node:fs/promises'
import { syntheticModel, testCompressor } from '@kvloom/conformance'
import { compose, defineScorer, IncompatibleStages, OptionError, siteOf, stagesOn } from '@kvloom/core'
import { registerKernels, selectTop } from '@kvloom/kernels'
import { dispose, mean, mul, norm, setBackend, sum, tensor2d } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adaKv } from './ada-kv'

const runner = { describe, it, expect }
/** Any scorer will do: by the length of keys, and by attention. */
const byLength = defineScorer({
  name: 'by-length',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => norm(keys, 2, -1),
})
const byAttention = defineScorer({
  name: 'by-attention',
  needs: { queries: { of: 'queries', last: 6 }, keys: { of: 'keys' } },
  score: ({ queries, keys }) => sum(mul(keys, mean(queries, [0, 1], true)), -1),
})
testCompressor(runner, { name: 'ada-kv over key lengths', make: () => compose(byLength({ keep: 0.4 }), adaKv()) })
testCompressor(runner, {
  name: 'ada-kv over queries, no floor',
  make: () => compose(byAttention({ keep: 0.4 }), adaKv({ safeguard: 0 })),
  backends: ['wasm'],
})

interface Golden {
  readonly scores: Readonly<Record<string, readonly (readonly number[])[]>>
  readonly cases: readonly {
    readonly name: string
    readonly safeguard: number
    readonly host: string
    readonly kept: readonly { readonly removed: number; readonly positions: readonly (readonly number[])[] }[]
  }[]
}
const golden = JSON.parse(await readFile(new URL('../golden/kvpress.json', import.meta.url), 'utf8')) as Golden

const model = syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 8, valueDim: 8 })

/** `uniform` of every head, or one number per head; every head keeps its best row at least. */
async function counts(
  scores: readonly (readonly number[])[],
  uniform: number | readonly number[],
  safeguard?: number,
  floor = 1,
) {
  const [stage] = stagesOn(adaKv(safeguard === undefined ? {} : { safeguard }), 'budget', 0)
  if (!stage) throw new Error('no budget stage')
  const tensors = scores.map((own) => tensor2d([...own], [1, own.length]))
  const heads = scores.map(({ length: rows }, head) => ({
    rows,
    seen: rows,
    uniform: Math.min(rows, typeof uniform === 'number' ? uniform : (uniform[head] ?? 0)),
    floor: Math.min(rows, floor),
  }))
  const mean = Math.trunc(heads.reduce((sum, head) => sum + head.uniform, 0) / heads.length)
  const result = await stage.bind(siteOf(model, 0, 'keys')).counts(tensors, mean, heads)
  dispose(tensors)
  return result
}

describe('ada-kv', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it.each(golden.cases)('keeps what the authors keep: $name', async ({ host, safeguard, kept }) => {
    const scores = golden.scores[host] ?? []
    const tokens = scores[0]?.length ?? 0
    for (const { removed, positions } of kept) {
      const perHead = await counts(scores, Math.trunc(tokens * (1 - removed)), safeguard)
      expect(perHead).toEqual(positions.map(({ length }) => length))
      for (const [head, own] of scores.entries()) {
        const all = tensor2d([...own], [1, tokens])
        const best = selectTop(all, perHead[head] ?? 0)
        expect([...(await best.data())]).toEqual(positions[head])
        dispose([all, best])
      }
    }
  })

  it('spends the whole budget, leaves every head its floor, and never gives a head more than it has', async () => {
    const rows = fc.array(fc.array(fc.float({ min: 0, max: 1, noNaN: true }), { minLength: 20, maxLength: 20 }), {
      minLength: 1,
      maxLength: 5,
    })
    await fc.assert(
      fc.asyncProperty(
        rows,
        fc.integer({ min: 1, max: 25 }),
        fc.float({ min: 0, max: 1, noNaN: true }),
        async (scores, uniform, safeguard) => {
          const perHead = await counts(scores, uniform, safeguard)
          const share = Math.min(uniform, 20)
          expect(perHead.reduce((sum, n) => sum + n, 0)).toBe(scores.length * share)
          for (const n of perHead) {
            expect(n).toBeGreaterThanOrEqual(Math.max(1, Math.trunc(share * safeguard)))
            expect(n).toBeLessThanOrEqual(20)
          }
        },
      ),
      { numRuns: 50 },
    )
  })

  it('shares equally when the floor is the share, or heads are alike and scores differ', async () => {
    expect(
      await counts(
        [
          [9, 8, 7, 6],
          [1, 2, 3, 4],
        ],
        2,
        1,
      ),
    ).toEqual([2, 2])
    expect(
      await counts(
        [
          [1, 2, 3, 4],
          [1, 2, 3, 4],
        ],
        2,
      ),
    ).toEqual([2, 2])
    expect(
      await counts(
        [
          [9, 8, 7, 6],
          [1, 2, 3, 4],
        ],
        2,
        0,
      ),
    ).toEqual([3, 1])
  })

  it('gives equal scores to the lower head first', async () => {
    expect(
      await counts(
        [
          [1, 1, 1],
          [1, 1, 1],
        ],
        2,
        0,
      ),
    ).toEqual([3, 1])
  })

  it('shares out over heads that hold different numbers of rows, and leaves alone what the scorer leaves alone', async () => {
    const scores = [
      [9, 8, 7, 6, 5],
      [4, 3],
      [2, 1, 0.5],
    ]
    expect(await counts(scores, [2, 1, 2], 0)).toEqual([3, 1, 1])
    expect(await counts(scores, [2, 2, 1], 0)).toEqual([2, 2, 1])
    expect(await counts(scores, [5, 2, 3], 0)).toEqual([5, 2, 3])
  })

  it('leaves every head what the scorer promises', async () => {
    const promised = [Infinity, Infinity]
    expect(
      await counts(
        [
          [...promised, 9, 8, 7],
          [...promised, 1, 1, 1],
        ],
        3,
        0,
        2,
      ),
    ).toEqual([4, 2])
  })

  it('refuses a floor that is no share, and to stand alone', () => {
    expect(() => adaKv({ safeguard: 1.1 })).toThrow(OptionError)
    expect(() => adaKv({ safeguard: Number.NaN })).toThrow(OptionError)
    expect(() => compose(adaKv())).toThrow(IncompatibleStages)
  })
})
