/** Cases made by the authors' TOVA: a fixed cache, reduced after the prompt and after every step. */
import {
  type CaseAdapter,
  compareArrays,
  feed,
  type GoldenCase,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  openExact,
  rowsHeldBy,
  rowsOf,
  scorerOf,
  scoresOf,
  type TensorResult,
  wrong,
} from '@kvloom/golden'
import { tova } from '../src/tova'

/** TOVA against its authors' data, and as kvpress has it. */
export const adapter: CaseAdapter = {
  method: 'tova',
  run,
  press: { name: 'tova', countsAsAny: true, make: (_, keep) => tova({ keep }) },
}

async function run(golden: GoldenCase): Promise<Outcome> {
  const rows = await rowsOf(golden)
  const prompt = numberOption(golden, 'prompt_tokens')
  const steps = numberOption(golden, 'decode_steps', 0)
  const compressor = tova({ cache: numberOption(golden, 'cache_size') })
  const model = modelOf(rows)

  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    const expected = await golden.expected(name)
    if (name === 'scores_prefill') {
      const scores = await scoresOf(scorerOf(compressor, model), rows, prompt)
      tensors.push(compareArrays(name, { ...scores, shape: [prompt] }, expected, golden.tolerance(name)))
    } else if (name === 'positions') {
      const cache = openExact(compressor, model)
      try {
        const held: NdArray[] = []
        await feed(cache, rows, 0, prompt, 'promptEnd')
        held.push(await rowsHeldBy(cache, 0))
        for (let step = 0; step < steps; step++) {
          await feed(cache, rows, prompt + step, 1, 'decode')
          held.push(await rowsHeldBy(cache, 0))
        }
        tensors.push(...comparePositions(name, held, expected))
      } finally {
        cache.dispose()
      }
    } else tensors.push(wrong(name, 'no result for this name'))
  }
  return { tensors }
}

/** Every KV head of every step holds the one expected set, row `[step]` of `expected`; -1 fills up what is not full yet. */
function comparePositions(name: string, held: readonly NdArray[], expected: NdArray): TensorResult[] {
  const width = expected.shape[1] ?? 0
  const [first] = held
  return Array.from({ length: first?.shape[0] ?? 0 }, (_, head) => {
    const data = held.flatMap(({ shape, data }) => {
      const n = shape[1] ?? 0
      const row = [...data.subarray(head * n, (head + 1) * n)]
      return [...row, ...Array.from({ length: Math.max(0, width - n) }, () => -1)]
    })
    return compareArrays(
      head === 0 ? name : `${name} (head ${head})`,
      { shape: [held.length, width], data: Int32Array.from(data) },
      expected,
      {},
    )
  })
}
