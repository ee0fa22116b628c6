/**
 * Decoding one KV head as cold-compress does. Records of attention belong to slots there: a new row goes on with those of its
 * slot, of the row it was exchanged for (the code that should clear them clears a copy) or of what lay in a free slot. Slots hold
 * what is kept of the prompt first, then what is dropped, in whatever order an unstable sort gave them. That order is in no file
 * of the data, and two things depend on it: which rows lie in the first slots, which are never exchanged, and the records of a
 * row that is added. So it is inferred: the fewest rows that must lie in the first slots, and the least records, for the expected
 * exchanges to be what upkeep decides. Then the head runs on its own, and what it holds must be what is expected.
 */
import { Arena, modelOf, type NdArray, type Rows, sliceLikeNumpy, toTensor } from '@kvloom/golden'
import { attentionMass, pagedAttention } from '@kvloom/kernels'
import { type Tensor, tensor3d } from '@tensorflow/tfjs-core'
import type { Policy } from '../src/policies'
import { upkeep } from '../src/upkeep'

export interface DecodeCase {
  readonly rows: Rows
  /** KV head. */
  readonly head: number
  /** Tokens of the prompt; steps after it. */
  readonly prompt: number
  readonly count: number
  readonly policy: Policy
  /** Mean attention of the prompt's tokens, and which of them are kept. */
  readonly mean: Float64Array
  readonly kept: Uint8Array
  /** Of the prompt; of all tokens. */
  readonly special: Uint8Array
  readonly punctuation: Uint8Array
  readonly globalTokens: number
  readonly maxLength: number
}

/** A row that a head holds. A mean is of `count` records, `sum` in all; every step is one, and so is the prompt. */
interface Held {
  readonly position: number
  sum: number
  count: number
}

/** What the order of the slots decides. */
interface Slots {
  /** Positions of rows that are never exchanged. */
  readonly first: readonly number[]
  /** Record that the row added at a position goes on with. */
  readonly records: ReadonlyMap<number, number>
}

export interface Decoded {
  /** Positions held after the prompt and after every step, ascending. */
  readonly positions: readonly (readonly number[])[]
  /** Per step `[group * valueDim]`. */
  readonly outputs: readonly (readonly number[])[]
}

export function runDecode(it: DecodeCase, expected: readonly (readonly number[])[]): Decoded {
  const { first, records } = inferSlots(it, expected)
  const held = start(it)
  // Rows that stay anyway fill the first slots.
  const spare = held.map(({ position }) => position).filter((p) => !first.includes(p) && expected.at(-1)?.includes(p))
  const front = [...first, ...spare].slice(0, it.globalTokens)
  const positions = [positionsOf(held)]
  const outputs: number[][] = []
  for (let position = it.prompt; position < it.prompt + it.count; position++) {
    const inSlots = inFront(held, front)
    const decision = decide(it, inSlots, position, it.globalTokens)
    if (decision !== 'skip')
      store(it, held, typeof decision === 'number' ? inSlots[decision] : undefined, position, records)
    positions.push(positionsOf(held))
    outputs.push(attend(it, held, position))
  }
  return { positions, outputs }
}

/** Follows the expected positions and asks, at every exchange, what must be so for upkeep to choose the same row. */
function inferSlots(it: DecodeCase, expected: readonly (readonly number[])[]): Slots {
  const dropped = [...it.mean].filter((_, i) => !it.kept[i]).sort((a, b) => a - b)
  const [held, last] = [start(it), expected.at(-1) ?? []]
  const first: number[] = []
  const records = new Map<number, number>()
  for (const [step, now] of expected.slice(1).entries()) {
    const position = it.prompt + step
    const gone = held.find((row) => !now.includes(row.position))
    while (gone) {
      const inSlots = inFront(held, first)
      const decision = decide(it, inSlots, position, first.length)
      const chosen = typeof decision === 'number' ? inSlots[decision] : undefined
      if (!chosen || chosen === gone) break
      const record = records.get(chosen.position)
      if (record !== undefined) {
        // An added row that stays: its record must be one that lifts it above the row that goes.
        const needed = (gone.sum / gone.count) * chosen.count - (chosen.sum - record)
        const higher = dropped.find((one) => one > record && one >= needed)
        if (higher === undefined) break
        chosen.sum += higher - record
        records.set(chosen.position, higher)
      } else if (chosen.position < it.prompt && last.includes(chosen.position) && first.length < it.globalTokens)
        first.push(chosen.position)
      else break
    }
    if (now.includes(position)) {
      if (!gone) records.set(position, slotIsOfPrompt(it, held) ? (dropped[0] ?? 0) : 0)
      store(it, held, gone, position, records)
    }
    attend(it, held, position)
  }
  return { first, records }
}

/** Whether the next free slot held a dropped token of the prompt. */
const slotIsOfPrompt = ({ prompt }: DecodeCase, held: readonly Held[]): boolean => held.length < prompt

const start = ({ mean, kept }: DecodeCase): Held[] =>
  [...kept.keys()].filter((i) => kept[i]).map((i) => ({ position: i, sum: mean[i] ?? 0, count: 1 }))

const positionsOf = (held: readonly Held[]): number[] => held.map(({ position }) => position)

const inFront = (held: readonly Held[], front: readonly number[]): readonly Held[] => [
  ...held.filter(({ position }) => front.includes(position)),
  ...held.filter(({ position }) => !front.includes(position)),
]

function decide(it: DecodeCase, held: readonly Held[], position: number, globalTokens: number) {
  const ones = (marks: Uint8Array) => marks.reduce((sum, mark) => sum + mark, 0)
  return upkeep(
    it.policy,
    {
      positions: positionsOf(held),
      special: held.map((row) => it.special[row.position] ?? 0),
      punctuation: held.map((row) => it.punctuation[row.position] ?? 0),
      mean: held.map((row) => row.sum / row.count),
    },
    { position, punctuation: it.punctuation[position] === 1 },
    {
      globalTokens,
      special: ones(it.special),
      punctuation: ones(it.punctuation.subarray(0, position)),
      windowLength: it.maxLength,
      heavyLength: it.maxLength,
    },
  )
}

/** Exchanges a row for the new one, or adds it to what is held. Either way it goes on with the records of its slot. */
function store(
  it: DecodeCase,
  held: Held[],
  gone: Held | undefined,
  position: number,
  records: Slots['records'],
): void {
  if (gone) held.splice(held.indexOf(gone), 1)
  const { sum, count } = gone ?? { sum: records.get(position) ?? 0, count: 1 + position - it.prompt }
  held.push({ position, sum, count })
}

/** One step over the rows held: records their attention (mean over the query heads) and returns the outputs. */
function attend({ rows, head }: DecodeCase, held: readonly Held[], position: number): number[] {
  const { queryHeads, kvHeads, keyDim, valueDim, attentionScale } = modelOf(rows)
  const group = queryHeads / kvHeads
  const arena = new Arena()
  try {
    const segment = (x: NdArray) => {
      const [, tokens = 0, dim = 0] = x.shape
      const data = new Float32Array(held.length * dim)
      for (const [i, row] of held.entries()) {
        const from = (head * tokens + row.position) * dim
        data.set(x.data.subarray(from, from + dim), i * dim)
      }
      const tensors: Tensor[] = [arena.own(tensor3d(data, [1, held.length, dim]))]
      return { layout: { kind: 'dense', store: 'f32' } as const, tensors, from: 0, rows: held.length }
    }
    const own = sliceLikeNumpy(rows.queries, `${head * group}:${(head + 1) * group}, ${position}:${position + 1}`)
    const options = {
      queries: [arena.own(toTensor(own))],
      keys: [segment(rows.keys)],
      kvHeads: 1,
      scale: attentionScale,
      causal: false,
    }
    const mass = arena.own(attentionMass({ ...options, reduce: 'sum' })).dataSync<'float32'>()
    for (const [i, row] of held.entries()) {
      for (let q = 0; q < group; q++) row.sum += (mass[q * held.length + i] ?? 0) / group
      row.count++
    }
    const { output } = pagedAttention({ ...options, values: [segment(rows.values)], keyDim, valueDim })
    return [...arena.own(output).dataSync<'float32'>()]
  } finally {
    arena.dispose()
  }
}
