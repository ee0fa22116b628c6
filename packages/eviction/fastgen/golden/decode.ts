/**
 * Decodes one KV head in the way of cold-compress, whose records of attention belong to slots of the cache and not to rows.
 *
 * A new row inherits the record of the slot that it is put into, since the code that should clear the record clears a copy. If the row
 * replaces another one, it inherits that row's record; if its slot was free, the record of whatever lay in the slot before. After the
 * prompt the slots hold the kept rows and then the dropped ones, in the order that an unstable sort gave them.
 *
 * The golden data does not contain this order, but two things depend on it: which rows lie in the first slots, whose rows are never
 * replaced, and which record a row inherits in a free slot. So `inferSlots` infers both from the expected exchanges. It assumes as few
 * rows in the first slots, and as small records, as make `upkeep` decide on these exchanges. Then `runDecode` runs the head on its
 * own, and the rows that the head holds after every step must be the expected ones.
 */
import { Arena, modelOf, type NdArray, type Rows, sliceLikeNumpy, toTensor } from '@kvloom/golden'
import { attentionMass, pagedAttention } from '@kvloom/kernels'
import { type Tensor, tensor3d } from '@tensorflow/tfjs-core'
import type { Policy } from '../src/policies'
import { upkeep } from '../src/upkeep'

export interface DecodeCase {
  readonly rows: Rows
  /** The KV head of `rows` that is decoded. */
  readonly head: number
  /** How many tokens the prompt has, and how many steps follow it. */
  readonly prompt: number
  readonly count: number
  readonly policy: Policy
  /** Mean attention of the prompt's tokens, and which of them are kept. */
  readonly mean: Float64Array
  readonly kept: Uint8Array
  /** Marks of special tokens, for the prompt; marks of punctuation, for all tokens. */
  readonly special: Uint8Array
  readonly punctuation: Uint8Array
  readonly globalTokens: number
  readonly maxLength: number
}

/** A row that the head holds, with its record: its attention added up (`sum`) over the prompt and the steps (`count` of them in all). */
interface Held {
  readonly position: number
  sum: number
  count: number
}

/** What depends on the order of the slots. */
interface Slots {
  /** The positions of rows that are never replaced, because they lie in the first slots. */
  readonly first: readonly number[]
  /** By position of a row that was added in a free slot, the record that it inherits. */
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
  // The first slots that are left go to rows that stay to the end anyway.
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

/** Follows the expected positions. At every exchange it finds what must be true of the slots for `upkeep` to choose the same row. */
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
        // `upkeep` chose a row that was added and is expected to stay. So its record must be larger: large enough to lift it above the row that goes.
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

/** Whether a dropped token of the prompt lay in the next free slot. */
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

/** Puts the new row into the place of `gone`, or adds it in a free slot. Either way it inherits the record of its slot. */
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

/** Takes one step over the rows that are held: adds their attention, as a mean over the query heads, to their records, and returns the outputs. */
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
