import { SHAPES, syntheticModel, testCompressor } from '@kvloom/conformance'
import { type KVCache, OptionError, openCache, ready, window } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, randomNormal, setBackend, slice, type Tensor } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { attentionSums } from './attention-sums'
import { fastgen } from './fastgen'
import { marksOf, policiesOf } from './policies'
import { choosePolicy, keepMask, meanAttention, profiledWidths, recoveryOf } from './profile'
import { budgetOf, upkeep } from './upkeep'

type Options = NonNullable<Parameters<typeof fastgen>[0]>

const _steps = {
  attentionSums,
  choosePolicy,
  fastgen,
  keepMask,
  marksOf,
  meanAttention,
  policiesOf,
  profiledWidths,
  recoveryOf,
  upkeep,
}
const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
// With these the heads of the suite's rows choose different policies.
const mixed = () => fastgen({ minRecovery: 0.8, punctuationIds: [0] })
testCompressor(runner, { name: 'fastgen', make: mixed, backends: ['wasm'] })
testCompressor(runner, { name: 'fastgen', make: mixed, backends: ['cpu'], shapes: SHAPES.slice(0, 1), decode: 40 })
testCompressor(runner, {
  name: 'fastgen, hybrid',
  make: () => fastgen({ policies: 'hybrid', minRecovery: 0.8 }),
  identity: () => window({ store: 'f32' }, fastgen({ minRecovery: 1 })),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
})

const policies = policiesOf('fastgen', 0.3, 0.3)
const tokens = 40
const marks = marksOf(
  Int32Array.from({ length: tokens }, (_, t) => t % 10),
  [0],
  [7],
)

/** Sums of an attention `[tokens][tokens]` written out. */
function sumsOf(attention: (query: number, token: number) => number) {
  const widths = profiledWidths(policies, tokens)
  const column = (within: number) =>
    Float64Array.from({ length: tokens }, (_, token) => {
      let sum = 0
      for (let query = token; query < Math.min(tokens, token + within); query++) sum += attention(query, token)
      return sum
    })
  return { all: column(tokens), within: new Map(widths.map((width) => [width, column(width)])) }
}

const chosenFor = (attention: (query: number, token: number) => number, minRecovery = 0.9): number => {
  const sums = sumsOf(attention)
  return choosePolicy(
    policies.map((policy) => recoveryOf(policy, sums, marks, 4)),
    minRecovery,
  )
}

const random = (heads: number, n: number, seed: number): Tensor => randomNormal([heads, n, 8], 0, 1.5, 'float32', seed)

describe('fastgen', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('gives a head that looks at the first token the cheapest policy, and one that looks around itself the window', () => {
    expect(chosenFor((_, token) => (token === 0 ? 1 : 0))).toBe(0)
    expect(chosenFor((query, token) => (token === Math.max(0, query - (query % 10) - 3) ? 1 : 0))).toBe(1)
    expect(chosenFor((query, token) => (query === token ? 1 : 0))).toBe(3)
    expect(chosenFor((query) => 1 / (query + 1), 0.99)).toBe(4)
  })

  it('takes everything where rounding leaves every recovery below the one asked for', () => {
    expect(choosePolicy([0.1, 0.5, 0.9999999], 1)).toBe(2)
    expect(choosePolicy([0.1, 0.5, 0.9999999], 1, 0)).toBe(0)
  })

  it('recovers more with every policy, everything with the last, and in tiles what a whole attention gives', async () => {
    const [queries, keys] = [random(2, 150, 1), random(1, 150, 2)]
    const sums = attentionSums(queries, keys, 1 / Math.sqrt(8), profiledWidths(policies, 150))
    const [q, k] = [await queries.data(), await keys.data()]
    const all = new Float64Array(150)
    const near = new Float64Array(150)
    for (let head = 0; head < 2; head++)
      for (let query = 0; query < 150; query++) {
        const weights = Array.from({ length: query + 1 }, (_, token) => {
          let dot = 0
          for (let c = 0; c < 8; c++) dot += (q[(head * 150 + query) * 8 + c] ?? 0) * (k[token * 8 + c] ?? 0)
          return Math.exp(dot / Math.sqrt(8))
        })
        const total = weights.reduce((a, b) => a + b, 0)
        for (const [token, weight] of weights.entries()) {
          all[token] = (all[token] ?? 0) + weight / total / 2
          if (query - token < 45) near[token] = (near[token] ?? 0) + weight / total / 2
        }
      }
    const within = sums.within.get(45) ?? new Float64Array(0)
    for (let token = 0; token < 150; token++) {
      expect(sums.all[token]).toBeCloseTo(all[token] ?? 0, 5)
      expect(within[token]).toBeCloseTo(near[token] ?? 0, 5)
    }
    const ids = marksOf(
      Int32Array.from({ length: 150 }, (_, t) => t % 11),
      [[3, 4]],
      [7],
    )
    const recoveries = policies.map((policy) => recoveryOf(policy, sums, ids, 4))
    for (const [i, recovery] of recoveries.slice(1).entries()) expect(recovery).toBeGreaterThan(recoveries[i] ?? 1)
    expect(recoveries.at(-1)).toBeCloseTo(1, 5)
    dispose([queries, keys])
  })

  it('matches markers of several tokens as a whole', () => {
    const found = marksOf(Int32Array.from([5, 1, 2, 1, 3, 1, 2, 9]), [[1, 2], 9], [3, 5])
    expect([...found.special]).toEqual([0, 1, 1, 0, 0, 1, 1, 1])
    expect([...found.punctuation]).toEqual([1, 0, 0, 0, 1, 0, 0, 0])
  })

  it('never exceeds the room a policy has but by protected punctuation', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 3 }),
        fc.array(fc.tuple(fc.boolean(), fc.float({ min: 0, max: 1, noNaN: true })), { minLength: 1, maxLength: 60 }),
        (number, incoming) => {
          const policy = policies[number] ?? policies[0]
          if (!policy) return
          const held: { position: number; punctuation: number; mean: number }[] = []
          let punctuation = 0
          for (const [position, [isMark, mean]] of incoming.entries()) {
            const allowed = { globalTokens: 4, special: 0, punctuation, windowLength: 30, heavyLength: 30 }
            const decision = upkeep(
              policy,
              {
                positions: held.map((row) => row.position),
                special: held.map(() => 0),
                punctuation: held.map((row) => row.punctuation),
                mean: held.map((row) => row.mean),
              },
              { position, punctuation: isMark },
              allowed,
            )
            if (typeof decision === 'number') {
              expect(decision).toBeGreaterThanOrEqual(4)
              const [gone] = held.splice(decision, 1)
              if (policy.punctuation) expect(gone?.punctuation).toBe(0)
              if (policy.window > 0) expect(gone?.position).toBeLessThanOrEqual(position - 9)
            }
            if (decision !== 'skip') held.push({ position, punctuation: isMark ? 1 : 0, mean })
            if (isMark) punctuation++
            expect(held.length).toBeLessThanOrEqual(budgetOf(policy, { ...allowed, punctuation }))
          }
        },
      ),
    )
  })

  describe('in a cache', () => {
    const model = { ...syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8 }), layers: 1 }
    const positionsOf = async (cache: KVCache): Promise<number[][]> => {
      const heads: number[][] = []
      for (const [lane] of cache.segments(0).entries()) {
        const { keys, values, positions } = await cache.materialize(0, lane)
        dispose([keys, values])
        heads.push(...positions.map((p) => [...p].filter((x) => x >= 0)))
      }
      return heads
    }
    /** Positions held after the prompt and after each of `count` decoded tokens; tokens are 0 … 9 in turn. */
    async function run(options: Options, prompt: readonly number[], count: number): Promise<number[][][]> {
      const cache = openCache(model, ready(window({ store: 'f32' }, fastgen(options))))
      const held: number[][][] = []
      let from = 0
      for (const n of [...prompt, ...new Array<number>(count).fill(1)]) {
        const decodes = from >= prompt.reduce((a, b) => a + b, 0)
        const ends = from + n === prompt.reduce((a, b) => a + b, 0)
        cache.begin(
          Int32Array.from({ length: n }, (_, i) => (from + i) % 10),
          decodes ? 'decode' : ends ? 'promptEnd' : 'prompt',
        )
        const now = { queries: rowsAt(4, from, n, 1), keys: rowsAt(2, from, n, 2), values: rowsAt(2, from, n, 3) }
        dispose([await cache.attend(0, now), ...Object.values(now)])
        await cache.commit()
        if (decodes || ends) held.push(await positionsOf(cache))
        from += n
      }
      cache.dispose()
      return held
    }
    /** Rows `from … from + n` of one long seeded sequence. */
    function rowsAt(heads: number, from: number, n: number, seed: number): Tensor {
      const all = random(heads, 120, seed)
      const rows = slice(all, [0, from, 0], [heads, n, 8])
      all.dispose()
      return rows
    }

    it('stores only special tokens and punctuation for a head that needs no more', async () => {
      const held = await run({ minRecovery: 0.001, specialIds: [0], punctuationIds: [7] }, [50], 30)
      // Policy "special" everywhere: the first four tokens and every token 0 of the prompt. The first token is both, so there is
      // room for one more; nothing after it is stored.
      const kept = [0, 1, 2, 3, 10, 20, 30, 40]
      for (const [step, heads] of held.entries())
        for (const head of heads) expect(head).toEqual(step === 0 ? kept : [...kept, 50])
    })

    it('exchanges one row for the new one once there is no room, and keeps the newest with a window', async () => {
      const held = await run({ policies: 'hybrid', minRecovery: 0.001 }, [50], 30)
      for (const [step, heads] of held.entries())
        for (const head of heads)
          expect(head).toEqual([0, 1, 2, 3, ...Array.from({ length: 5 }, (_, i) => 45 + step + i)])
    })

    it('grows with the text only where a fraction of it is meant', async () => {
      const options = { minRecovery: 0.65, specialIds: [0], punctuationIds: [7] }
      const [fixed, growing] = [await run({ ...options, maxLength: 50 }, [50], 40), await run(options, [50], 40)]
      const size = (held: number[][][], step: number) => (held.at(step) ?? []).map(({ length }) => length)
      // Beside the 4 tokens of punctuation that 40 more tokens bring and the special token that is among the first four.
      for (const [head, n] of size(fixed, -1).entries()) expect(n).toBeLessThanOrEqual((size(fixed, 0)[head] ?? 0) + 5)
      for (const [head, n] of size(growing, -1).entries())
        expect(n).toBeGreaterThanOrEqual((size(growing, 0)[head] ?? 0) + 12)
    })

    it('keeps the same of a prompt in pieces, and of every token when all attention is asked for', async () => {
      const options = { minRecovery: 0.7, specialIds: [0], punctuationIds: [7] }
      expect(await run(options, [1, 20, 29], 20)).toEqual(await run(options, [50], 20))
      const everything = await run({ minRecovery: 1 }, [50], 10)
      for (const [step, heads] of everything.entries())
        for (const head of heads) expect(head).toEqual(Array.from({ length: 50 + step }, (_, i) => i))
    })

    it('profiles a prompt that comes after decoded tokens by the queries of the prompt', async () => {
      const cache = openCache(
        model,
        ready(window({ store: 'f32' }, fastgen({ policies: 'hybrid', minRecovery: 0.001 }))),
      )
      let from = 0
      for (const [n, phase] of [
        [1, 'decode'],
        [1, 'decode'],
        [20, 'prompt'],
        [28, 'promptEnd'],
      ] as const) {
        cache.begin(
          Int32Array.from({ length: n }, (_, i) => (from + i) % 10),
          phase,
        )
        const now = { queries: rowsAt(4, from, n, 1), keys: rowsAt(2, from, n, 2), values: rowsAt(2, from, n, 3) }
        dispose([await cache.attend(0, now), ...Object.values(now)])
        await cache.commit()
        from += n
      }
      for (const head of await positionsOf(cache)) expect(head).toEqual([0, 1, 2, 3, 45, 46, 47, 48, 49])
      cache.dispose()
    })

    it('sums the attention of the newest queries alone where earlier tokens have none', () => {
      const [queries, keys] = [random(2, 150, 1), random(1, 150, 2)]
      const newest = slice(queries, [0, 20, 0], [2, 130, 8])
      const [whole, part] = [queries, newest].map((q) => attentionSums(q, keys, 0.3, []))
      const head = attentionSums(slice(queries, [0, 0, 0], [2, 20, 8]), slice(keys, [0, 0, 0], [1, 20, 8]), 0.3, [])
      for (let token = 0; token < 150; token++)
        expect(part?.all[token]).toBeCloseTo((whole?.all[token] ?? 0) - (head.all[token] ?? 0), 4)
      expect(part?.queries).toBe(130)
    })

    it('gives back every byte', async () => {
      const before = memory().numBytes
      await run({ minRecovery: 0.6 }, [30], 10)
      expect(memory().numBytes).toBe(before)
    })
  })

  it('refuses options out of range', () => {
    expect(() => fastgen({ minRecovery: 0 })).toThrow(OptionError)
    expect(() => fastgen({ window: 1.5 })).toThrow(OptionError)
    expect(() => fastgen({ specialIds: [[]] })).toThrow(OptionError)
    expect(() => fastgen({ punctuationIds: [-1] })).toThrow(OptionError)
    expect(() => fastgen({ policies: 'hybrid', heavy: 0.4 })).toThrow(OptionError)
  })
})
