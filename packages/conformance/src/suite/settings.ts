/** Draws a method's settings at random from what its options allow. Each must be refused with a typed error, or pass. */
import {
  type Artifact,
  calibrate,
  compose,
  type KVCompressor,
  KvloomError,
  type MethodFactory,
  type ModelShape,
  needsCalibration,
  type OptionSchema,
  openCache,
  ready,
  restoreCache,
  takeTurn,
} from '@kvloom/core'
import { type TestRunner, withTimeout } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { memory, setBackend } from '@tensorflow/tfjs-core'
import { behindModelStages } from './model-stages'
import { RecallWatch } from './recall-watch'
import { seeded, syntheticModel } from './shapes'
import { expectNone } from './steps'
import { syntheticRun } from './synthetic-run'
import { runTurns, type Turn } from './turns'

export interface SettingsOptions {
  readonly name: string
  /** The methods to compose, in this order. Settings are drawn for each. */
  readonly methods: readonly MethodFactory[]
  /** How many settings that open a cache are tried. Default 8. */
  readonly samples?: number
  /** The same seed draws the same settings. Default 1. */
  readonly seed?: number
  /** Options that are not drawn, by method name. */
  readonly fixed?: Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Whether it is right that no setting opens a cache: every refusal must still be a typed error. Default false. */
  readonly mayBeRefused?: boolean
  /** Default: one KV head, head dims 32, 64, 80 and 96. */
  readonly shapes?: readonly ModelShape[]
  /** Where to compute. Default wasm. */
  readonly backend?: 'cpu' | 'wasm'
  /** Milliseconds that the test may take. Default two minutes. */
  readonly timeout?: number
}

const SHAPES: readonly ModelShape[] = [
  syntheticModel({ queryHeads: 2, kvHeads: 1, keyDim: 32, valueDim: 32 }),
  syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 64, valueDim: 64 }),
  syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 80, valueDim: 80 }),
  syntheticModel({ queryHeads: 3, kvHeads: 1, keyDim: 96, valueDim: 96 }),
]

/** How often settings are drawn for one sample, refused ones included. */
const DRAWS = 40

/** Declares one test: of the settings drawn from a seed, each is refused with a typed error before a cache opens, or passes turns of prompts. */
export function testSettings(runner: TestRunner, options: SettingsOptions): void {
  const { describe, it, expect } = withTimeout(runner, options.timeout)
  const {
    name,
    methods,
    samples = 8,
    seed = 1,
    fixed = {},
    shapes = SHAPES,
    backend = 'wasm',
    mayBeRefused = false,
  } = options
  describe(`${name}, settings from seed ${seed}`, () => {
    it('are refused by name or pass', async () => {
      await registerKernels(backend)
      await setBackend(backend)
      const random = seeded(seed * 7919)
      const problems: string[] = []
      let opened = 0
      for (let draw = 0; draw < samples * (mayBeRefused ? 1 : DRAWS) && opened < samples; draw++) {
        const model = shapes[opened % shapes.length]
        const drawn = methods.map((method) => ({ ...drawOptions(method.options, random), ...fixed[method.card.name] }))
        const turns = drawTurns(random)
        if (!model) break
        const before = memory()
        const found = await outcome(methods, drawn, model, turns)
        if (found === 'refused') continue
        opened++
        const { numBytes, numTensors } = memory()
        if (numBytes !== before.numBytes || numTensors !== before.numTensors)
          found.push(`${numTensors - before.numTensors} tensors, ${numBytes - before.numBytes} bytes are left`)
        problems.push(...found.map((problem) => `${JSON.stringify(drawn)} on ${model.name}: ${problem}`))
        await takeTurn()
      }
      expectNone(problems)
      expect(mayBeRefused || opened > 0).toBe(true)
    })
  })
}

/** Error codes of what lies below the cache. A setting that gets this far was not refused: it broke something. */
const DEFECT = /^(?:KERNEL_|MATH$)/

async function outcome(
  methods: readonly MethodFactory[],
  drawn: readonly Readonly<Record<string, unknown>>[],
  original: ModelShape,
  turns: readonly Turn[],
): Promise<'refused' | string[]> {
  let compressor: KVCompressor
  let artifacts: readonly Artifact[]
  let model: ModelShape
  try {
    compressor = compose(...methods.map((method, i) => method(drawn[i] as Parameters<typeof method>[0])))
    const changed = behindModelStages(original, compressor)
    model = changed.shape
    const misfits = await changed.misfits()
    if (misfits.length > 0) return [...misfits]
    const fitted = needsCalibration(compressor) ? await calibrate(compressor, syntheticRun(model)) : ready(compressor)
    artifacts = fitted.artifacts
    openCache(model, fitted).dispose()
  } catch (error) {
    return error instanceof KvloomError && !DEFECT.test(error.code)
      ? 'refused'
      : [`before a cache opened: ${error instanceof Error ? error.stack : String(error)}`]
  }
  const watch = new RecallWatch()
  const again = () => ready(watch.over(compressor), artifacts)
  try {
    return await runTurns(
      {
        open: () => openCache(model, again()),
        restore: (bytes) => restoreCache(model, again(), bytes),
        watch,
      },
      turns,
    )
  } catch (error) {
    return [`with turns ${JSON.stringify(turns)}: ${error instanceof Error ? error.stack : String(error)}`]
  }
}

/** Numbers at which methods change what they do, and their neighbours. */
const NUMBERS = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 24, 31, 32, 33, 48, 64, 1e-6, 0.05, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1,
]
const LISTS = [[], [0], [1], [0, 1]]

/** Values to try for an option: its default, numbers, lists and flags, and the literals that `allowed` names. */
export function drawOptions(schema: OptionSchema, random: () => number): Record<string, unknown> {
  const drawn: Record<string, unknown> = {}
  for (const [name, spec] of Object.entries(schema)) {
    const candidates = [...literalsIn(spec.allowed), ...NUMBERS, ...LISTS, true, false].filter((value) =>
      spec.valid(value),
    )
    const drawsDefault = random() < 0.4
    const chosen = candidates[Math.floor(random() * candidates.length)]
    if (!drawsDefault && chosen !== undefined) drawn[name] = chosen
  }
  return drawn
}

/** The strings in quotes of "one of" options. */
const literalsIn = (allowed: string): string[] => [...allowed.matchAll(/"([^"]+)"/g)].map(([, text]) => text ?? '')

const LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 50, 65, 100]
const CHUNKS = [1, 7, Number.POSITIVE_INFINITY]

/** Draws three prompts, one after the other on the same cache. */
export function drawTurns(random: () => number): readonly Turn[] {
  const one = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)] as T
  return [0, 1, 2].map(() => ({ prompt: one(LENGTHS), chunk: one(CHUNKS), decode: one([1, 2, 20]) }))
}
