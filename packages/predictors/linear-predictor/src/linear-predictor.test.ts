import { syntheticModel } from '@kvloom/conformance'
import {
  type Artifact,
  ArtifactMismatch,
  CalibrationError,
  compose,
  defineScorer,
  foldSpaces,
  type HostTensor,
  IncompatibleStages,
  type LayerSamples,
  type Learned,
  ModelMismatch,
  NOTHING_ASKED,
  OptionError,
  onLayers,
  type Part,
  type Predictor,
  siteOf,
  stagesOn,
} from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { seededRandom } from '@kvloom/math'
import { memory, randomNormal, setBackend, slice, type Tensor, tensor, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { linearPredictor } from './linear-predictor'

type Options = NonNullable<Parameters<typeof linearPredictor>[0]>

const HEADS = 3
const DIM = 8
const CHANNELS = HEADS * DIM
const model = syntheticModel({ queryHeads: HEADS, kvHeads: HEADS, keyDim: DIM, valueDim: DIM })

const stageOf = (options: Options, part: Part, layer = 1) => {
  const [stage] = stagesOn(linearPredictor(options), 'predict', layer, part)
  if (!stage) throw new Error(`nothing predicts the ${part} of layer ${layer}`)
  return stage
}

const artifactOf = (layer: number, part: Part, { tensors }: Pick<Learned, 'tensors'>): Artifact => ({
  stage: 'linear-predictor',
  fingerprint: '',
  json: null,
  tensors: Object.fromEntries(Object.entries(tensors).map(([name, t]) => [`${layer}.${part}.${name}`, t])),
})

/** Learned maps of random numbers for `inputs` to `outputs` channels. */
function randomMaps(inputs: number, outputs: number, rank = 0): Learned {
  const random = seededRandom(inputs * 31 + outputs)
  const host = (...shape: number[]): HostTensor => ({
    shape,
    values: Float32Array.from(
      random.gaussians(shape.reduce((a, b) => a * b, 1)),
      (v) => Math.round(v * 128) / 128, // exact in f16
    ),
  })
  const maps = rank > 0 ? { down: host(rank, inputs), up: host(outputs, rank) } : { weight: host(outputs, inputs) }
  return { json: null, tensors: { ...maps, bias: host(outputs) } }
}

function bound(options: Options, part: Part, learned: Pick<Learned, 'tensors'>, channels = CHANNELS): Predictor {
  const site = { ...siteOf(model, 1, part), heads: 1, dim: channels }
  return stageOf(options, part).bind(site, artifactOf(1, part, learned))
}

const numbersOf = async (t: Tensor): Promise<Float32Array> => {
  const values = ((await t.data()) as Float32Array).slice()
  t.dispose()
  return values
}

/** A chain of two layers: y = 0.9 x A + noise + 0.5, rows `[heads, n, dim]`, as in the specification of AQUA-KV's checks. */
function chain(tokens: number, sequences = 1): Pick<LayerSamples, 'target' | 'sources'> {
  const random = seededRandom(5)
  const a = random.gaussians(CHANNELS * CHANNELS).map((v) => v / Math.sqrt(CHANNELS))
  const target: HostTensor[] = []
  const source: HostTensor[] = []
  for (let s = 0; s < sequences; s++) {
    const x = Float32Array.from(random.gaussians(tokens * CHANNELS))
    const y = new Float32Array(tokens * CHANNELS)
    for (let t = 0; t < tokens; t++)
      for (let j = 0; j < CHANNELS; j++) {
        let sum = 0
        for (let i = 0; i < CHANNELS; i++) sum += x[t * CHANNELS + i]! * a[i * CHANNELS + j]!
        const at = (Math.floor(j / DIM) * tokens + t) * DIM + (j % DIM)
        y[at] = 0.9 * sum + 0.436 * random.gaussian() + 0.5
      }
    source.push({ shape: [tokens, CHANNELS], values: x })
    target.push({ shape: [HEADS, tokens, DIM], values: y })
  }
  return { target, sources: [source] }
}

async function fit(options: Options, samples: Pick<LayerSamples, 'target' | 'sources'>, part: Part = 'keys') {
  const { fit: how } = stageOf(options, part)
  if (how?.scope !== 'layer') throw new Error('not fitted layer by layer')
  return how.run({ layer: 1, part, model, heads: HEADS, dim: DIM, ...samples }, NOTHING_ASKED)
}

/** Predictions of the first sequence, and its rows side by side: `[tokens, channels]` each. */
async function predicted(options: Options, samples: Pick<LayerSamples, 'target' | 'sources'>, learned: Learned) {
  const [x, y] = [samples.sources[0]![0]!, samples.target[0]!]
  const tokens = x.shape[0]!
  const source = tensor(x.values, [...x.shape])
  const guess = await numbersOf(bound(options, 'keys', learned).predict([source]))
  source.dispose()
  const truth = Float32Array.from(
    { length: tokens * CHANNELS },
    (_, at) => y.values[(Math.floor((at % CHANNELS) / DIM) * tokens + Math.floor(at / CHANNELS)) * DIM + (at % DIM)]!,
  )
  return { guess, truth, x: x.values }
}

function relativeError(x: Float32Array, y: Float32Array): number {
  let [difference, square] = [0, 0]
  for (let i = 0; i < x.length; i++) {
    difference += (x[i]! - y[i]!) ** 2
    square += x[i]! ** 2
  }
  return difference / square
}

describe.each(['cpu', 'wasm'] as const)('linear-predictor on %s', (backend) => {
  beforeAll(async () => {
    await registerKernels(backend)
    await setBackend(backend)
  })

  it.each<[inputs: number, outputs: number, options: Options]>([
    [192, 192, {}],
    [384, 192, {}],
    [40, 24, { weights: 'f32' }],
    [41, 27, {}],
    [1100, 64, {}], // more columns than the product takes in one run
    [384, 192, { rank: 33 }],
  ])(
    'predicts a row to the same bits whatever rows are asked for with it: %i to %i, %o',
    async (inputs, outputs, o) => {
      const predictor = bound(o, 'keys', randomMaps(inputs, outputs, o.rank ?? undefined), outputs)
      const rows = randomNormal([131, inputs], 0, 1, 'float32', 3) as Tensor
      const whole = await numbersOf(predictor.predict([rows]))
      for (const size of [1, 2, 3, 4, 5, 7, 8, 9, 64, 130]) {
        const from = 131 - size
        for (const at of new Set([0, Math.floor(from / 2), from])) {
          const part = slice(rows, [at, 0], [size, -1])
          const alone = await numbersOf(predictor.predict([part]))
          part.dispose()
          const same = whole.slice(at * outputs, (at + size) * outputs)
          expect(Buffer.compare(Buffer.from(alone.buffer), Buffer.from(same.buffer))).toBe(0)
        }
      }
      rows.dispose()
    },
  )

  it('reads its sources side by side, in the order it says', async () => {
    const learned = randomMaps(2 * CHANNELS, CHANNELS)
    const predictor = bound({}, 'values', learned)
    expect(predictor.sources).toEqual([
      { back: 0, part: 'keys' },
      { back: 1, part: 'values' },
    ])
    const [keys, values] = [1, 2].map((seed) => randomNormal([5, CHANNELS], 0, 1, 'float32', seed) as Tensor)
    const got = await numbersOf(predictor.predict([keys!, values!]))
    const [k, v] = [await numbersOf(keys!), await numbersOf(values!)]
    const { weight, bias } = learned.tensors
    for (let row = 0; row < 5; row++)
      for (let out = 0; out < CHANNELS; out++) {
        let sum = bias!.values[out]!
        for (let i = 0; i < CHANNELS; i++)
          sum +=
            weight!.values[out * 2 * CHANNELS + i]! * k[row * CHANNELS + i]! +
            weight!.values[(out * 2 + 1) * CHANNELS + i]! * v[row * CHANNELS + i]!
        expect(Math.abs(got[row * CHANNELS + out]! - sum)).toBeLessThan(1e-4)
      }
  })

  it('frees what it makes', () => {
    const predictor = bound({}, 'keys', randomMaps(CHANNELS, CHANNELS))
    const rows = tensor2d(new Float32Array(3 * CHANNELS), [3, CHANNELS])
    const { numTensors } = memory()
    const guess = predictor.predict([rows])
    expect(memory().numTensors).toBe(numTensors + 1)
    guess.dispose()
    rows.dispose()
  })
})

describe('linear-predictor', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('finds what a layer can know of the next', async () => {
    const samples = chain(6000)
    const learned = await fit({}, samples)
    const { guess, truth } = await predicted({}, samples, learned)
    // Noise of 0.436² beside 0.9² + 0.436² + 0.5², less than that by 25 parameters of 6000 tokens.
    expect(relativeError(truth, guess)).toBeCloseTo(0.19 / (0.81 + 0.19 + 0.25), 2)
    expect(learned.json).toEqual({ rows: 5996 })
  })

  it('leaves a residual that is orthogonal to the inputs when nothing is damped', async () => {
    const options: Options = { damping: 0, drop: 0, weights: 'f32' }
    const samples = chain(500)
    const { guess, truth, x } = await predicted(options, samples, await fit(options, samples))
    for (let i = 0; i <= CHANNELS; i++) {
      let product = 0
      for (let t = 0; t < 500; t++)
        product += (i < CHANNELS ? x[t * CHANNELS + i]! : 1) * (truth[t * CHANNELS + 3]! - guess[t * CHANNELS + 3]!)
      expect(Math.abs(product / 500)).toBeLessThan(1e-6)
    }
  })

  it('does not look at the first tokens of a sequence', async () => {
    const samples = chain(100, 2)
    const learned = await fit({ drop: 3 }, samples)
    for (const { values } of samples.sources[0]!) values.fill(1000, 0, 3 * CHANNELS)
    expect(await fit({ drop: 3 }, samples)).toEqual(learned)
    expect(await fit({ drop: 2 }, samples)).not.toEqual(learned)
    await expect(fit({ drop: 100 }, samples)).rejects.toThrow(CalibrationError)
  })

  it('loses less the higher the rank, and holds two thin maps', async () => {
    const samples = chain(1000)
    const errors: number[] = []
    for (const rank of [1, 6, 12, 23, null]) {
      const learned = await fit({ rank }, samples)
      const { guess, truth } = await predicted({ rank }, samples, learned)
      errors.push(relativeError(truth, guess))
      if (rank === 6)
        expect(Object.fromEntries(Object.entries(learned.tensors).map(([name, t]) => [name, t.shape]))).toEqual({
          down: [6, CHANNELS],
          up: [CHANNELS, 6],
          bias: [CHANNELS],
        })
    }
    expect(errors).toEqual([...errors].sort((a, b) => b - a))
    await expect(fit({ rank: CHANNELS }, samples)).rejects.toThrow(ModelMismatch)
  })

  it('holds maps of halves, counted by who holds them', () => {
    let bytes = 0
    const site = siteOf(model, 1, 'keys', ({ shape, values }) => {
      bytes += values.byteLength
      return tensor(values, [...shape], values instanceof Int32Array ? 'int32' : 'float32')
    })
    const { numTensors } = memory()
    stageOf({}, 'keys').bind(site, artifactOf(1, 'keys', randomMaps(CHANNELS, CHANNELS)))
    expect(memory().numTensors).toBe(numTensors + 2)
    expect(bytes).toBe(CHANNELS * CHANNELS * 2 + CHANNELS * 4)
  })

  it('is fitted on what it will hold', async () => {
    const learned = await fit({}, chain(200))
    const { weight } = learned.tensors
    const exact = await fit({ weights: 'f32' }, chain(200))
    expect(relativeError(exact.tensors['weight']!.values as Float32Array, weight!.values as Float32Array)).toBeLessThan(
      1e-6,
    )
    expect(weight!.values).not.toEqual(exact.tensors['weight']!.values)
  })

  it('leaves the first layer alone and hands on residuals of keys before RoPE', () => {
    expect(stagesOn(linearPredictor(), 'predict', 0)).toEqual([])
    expect(stagesOn(onLayers([0, 3], linearPredictor()), 'predict', 0)).toEqual([])
    const { stages } = linearPredictor()
    expect(foldSpaces(stages, 'keys').at(-1)?.space).toMatchObject({
      heads: 'all',
      latent: true,
      rope: 'pre',
      randomAccess: false,
    })
    expect(foldSpaces(stages, 'values').at(-1)?.space).toMatchObject({ heads: 'all', latent: true, rope: 'none' })
  })

  it('predicts what it is told to, from what it is told', () => {
    const parts = (options: Options) =>
      linearPredictor(options).stages.map(({ on, fit: how }) => [
        on?.part,
        how?.scope === 'layer' && on?.part ? how.sources?.(on.part) : null,
      ])
    expect(parts({ valuesFrom: 'nothing', keysFrom: 'keys-values' })).toEqual([
      [
        'keys',
        [
          { back: 1, part: 'keys' },
          { back: 1, part: 'values' },
        ],
      ],
    ])
    expect(parts({ keysFrom: 'nothing', valuesFrom: 'keys' })).toEqual([['values', [{ back: 0, part: 'keys' }]]])
    expect(() => linearPredictor({ keysFrom: 'nothing', valuesFrom: 'nothing' })).toThrow(OptionError)
  })

  it('refuses layers or heads that keep different tokens, options out of range and foreign artifacts', () => {
    const norms = defineScorer({
      name: 'norms',
      needs: { keys: { of: 'keys' } },
      score: ({ keys }) => slice(keys, [0, 0, 0], [-1, -1, 1]),
    })
    expect(() => compose(norms(), linearPredictor())).toThrow(IncompatibleStages)
    expect(() => compose(linearPredictor(), linearPredictor({ rank: 4 }))).toThrow(IncompatibleStages)
    expect(() => linearPredictor({ damping: -1 })).toThrow(OptionError)
    expect(() => linearPredictor({ rank: 1.5 })).toThrow(OptionError)
    const site = siteOf(model, 1, 'keys')
    expect(() => stageOf({}, 'keys').bind(site)).toThrow(ArtifactMismatch)
    expect(() => stageOf({}, 'keys').bind(site, artifactOf(1, 'keys', randomMaps(8, 8)))).toThrow(ModelMismatch)
  })
})
