import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type KVCompressor, type ModelWeights, OptionError, type Stage, type Training } from '@kvloom/core'
import { loadModel, type Model } from '@kvloom/engine'
import { memory, mul } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { TrainingError } from './errors'
import type { TrainOptions } from './options'
import { recovered } from './record'
import { textSequences } from './sequences'
import { type Trained, train } from './train'

const LENGTH = 24

const training: Training = {
  phases: [
    { name: 'alone', loss: 'attention', weights: ['attention.output'], share: 0.5, learningRate: 2e-3, passes: 2 },
    { name: 'together', loss: 'teacher', weights: ['attention.output', 'mlpNorm'], share: 0.5, learningRate: 2e-3 },
  ],
}

/** Weights whose attention says three tenths of what it said. */
const damped = (weights: ModelWeights): ModelWeights => ({
  shape: { ...weights.shape, fingerprint: `${weights.shape.fingerprint}+damped` },
  names: () => weights.names(),
  async get(name) {
    const weight = await weights.get(name)
    if (!name.endsWith('attention.output')) return weight
    const small = mul(weight, 0.3)
    weight.dispose()
    return small
  },
})
const stage: Stage<'model'> = {
  kind: 'model',
  id: 'damped',
  options: null,
  when: 'load',
  accepts: (space) => space,
  training,
  bind: () => ({ transform: damped }),
}
const compressorOf = (stages: KVCompressor['stages']): KVCompressor => ({
  card: { name: 'damped', title: 'Damped', summary: 'Attention says less.', chunkInvariant: true },
  stages,
})

let model: Model
let folder: string
let sequences: readonly Int32Array[]
beforeAll(async () => {
  model = await loadModel('tiny')
  folder = await mkdtemp(join(tmpdir(), 'kvloom-training-'))
  const words = 'It is a truth universally acknowledged, that a whale in want of a wife must be hunted. '
  const text = Array.from({ length: 12 }, (_, i) => `${i} ${words}`).join('')
  sequences = textSequences(text, model.tokenizer, { length: LENGTH, most: 40 })
})
afterAll(async () => {
  model.dispose()
  await rm(folder, { recursive: true, force: true })
})

const options = (more: Partial<TrainOptions> = {}): TrainOptions => ({
  model,
  compressor: compressorOf([stage]),
  sequences: sequences.slice(0, 24),
  heldOut: sequences.slice(24, 27),
  tokens: 40 * LENGTH,
  seed: 3,
  ...more,
})

/** A digest of all weights of a model, which is freed. */
async function bytesOf({ model: trained }: Trained): Promise<string> {
  const hash = createHash('sha256')
  for (const name of trained.weights.names()) {
    const weight = await trained.weights.get(name)
    hash.update(name).update(new Uint8Array((await weight.data()).buffer))
    weight.dispose()
  }
  trained.dispose()
  return hash.digest('hex')
}

const codeOf = (code: TrainingError['code']) => ({ code })

describe('train', () => {
  it('brings a damaged model back, with as many tensors at every step', async () => {
    const before = memory().numTensors
    const tensors = new Set<number>()
    let steps = 0
    const trained = await train(
      options({
        measurements: 4,
        onProgress: ({ loss }) => {
          if (loss === null) return
          tensors.add(memory().numTensors)
          steps++
        },
      }),
    )
    expect(steps).toBe(40)
    expect(tensors.size).toBe(1)
    const { record } = trained
    expect(record.untrained).toBeGreaterThan(1.2 * record.dense)
    expect(recovered(record)).toBeGreaterThan(0.5)
    expect(record.curve.map(({ tokens }) => tokens)).toEqual(Array.from({ length: 40 }, (_, i) => (i + 1) * LENGTH))
    expect(record.curve.filter(({ phase }) => phase === 1)).toHaveLength(20)
    for (const phase of [0, 1]) {
      const losses = record.curve.filter((point) => point.phase === phase).map(({ loss }) => loss)
      const mean = (of: readonly number[]) => of.reduce((a, b) => a + b, 0) / of.length
      expect(mean(losses.slice(-5))).toBeLessThan(mean(losses.slice(0, 5)))
    }
    expect(record.perplexities.map(({ tokens }) => tokens / LENGTH)).toEqual([10, 20, 30, 40])
    expect(trained.model.shape.fingerprint).toBe(record.trained)
    expect(trained.model.shape.transformedBy).toEqual(['damped'])
    trained.model.dispose()
    expect(memory().numTensors).toBe(before)
  })

  it('gives the same bytes for the same seed, also when it was interrupted twice, and others for another seed', async () => {
    // Eleven steps a phase: the first one has a block and a part of the next.
    const [first, second] = training.phases
    const phases = [{ ...first!, passes: 1 }, second!]
    const short = (more: Partial<TrainOptions> = {}) =>
      options({ tokens: 22 * LENGTH, training: { phases }, heldOut: sequences.slice(24, 25), ...more })
    const whole = await train(short())
    const { curve, perplexities, trained } = whole.record
    const bytes = await bytesOf(whole)
    expect(await bytesOf(await train(short()))).toBe(bytes)
    expect(await bytesOf(await train(short({ seed: 4 })))).not.toBe(bytes)

    const file = join(folder, 'interrupted.safetensors')
    const before = memory().numTensors
    // Inside the second block of the first phase, and in the second phase.
    for (const [at, resume] of [
      [9, false],
      [17, true],
    ] as const) {
      const stop = new AbortController()
      const interrupted = train(
        short({
          checkpoint: { file, resume },
          signal: stop.signal,
          onProgress: ({ tokens }) => tokens === at * LENGTH && stop.abort(),
        }),
      )
      await expect(interrupted).rejects.toMatchObject(codeOf('INTERRUPTED'))
      expect(memory().numTensors).toBe(before)
    }
    const early = await train(short({ checkpoint: { file, resume: true, asIs: true } }))
    expect(early.record).toMatchObject({ tokensTrained: 17 * LENGTH, curve: curve.slice(0, 17) })
    expect(early.record.perplexities.at(-1)).toMatchObject({ phase: 1, tokens: 17 * LENGTH })
    early.model.dispose()
    const resumed = await train(short({ checkpoint: { file, resume: true } }))
    expect(resumed.record.curve).toEqual(curve)
    expect(resumed.record.perplexities).toEqual(perplexities)
    expect(resumed.record.trained).toBe(trained)
    expect(await bytesOf(resumed)).toBe(bytes)
  })

  it('lets timers and signals in between two steps', async () => {
    const stop = new AbortController()
    let steps = 0
    const onProgress = ({ loss }: { readonly loss: number | null }) => {
      if (loss !== null && ++steps === 1) setTimeout(() => stop.abort())
    }
    await expect(train(options({ signal: stop.signal, onProgress }))).rejects.toMatchObject(codeOf('INTERRUPTED'))
    expect(steps).toBeLessThan(4)
  })

  it('refuses checkpoints that are not there, damaged or of another run, and leaves them as they are', async () => {
    const file = join(folder, 'checkpoint.safetensors')
    const checkpoint = { file, resume: true }
    const short = { tokens: 4 * LENGTH }
    await expect(train(options({ ...short, checkpoint }))).rejects.toMatchObject(codeOf('CHECKPOINT_MISSING'))
    ;(await train(options({ ...short, checkpoint: { file } }))).model.dispose()
    const good = await readFile(file)
    await expect(train(options({ ...short, checkpoint: { file } }))).rejects.toMatchObject(codeOf('CHECKPOINT_EXISTS'))
    const others: readonly (readonly [string, Partial<TrainOptions>])[] = [
      ['seed', { seed: 5 }],
      ['phases', { learningRate: 2 }],
      ['phases', { tokens: 8 * LENGTH }],
      ['text', { sequences: sequences.slice(1, 24) }],
      ['heldOut', { heldOut: sequences.slice(24, 26) }],
    ]
    for (const [name, more] of others) {
      const refused = train(options({ ...short, ...more, checkpoint }))
      await expect(refused).rejects.toMatchObject(codeOf('CHECKPOINT_MISMATCH'))
      await expect(refused).rejects.toThrow(`of another run (${name} `)
    }
    for (const at of [9, Math.floor(good.length / 2), good.length - 1]) {
      const bad = Buffer.from(good)
      bad[at] = bad[at]! ^ 1
      await writeFile(file, bad)
      await expect(train(options({ ...short, checkpoint }))).rejects.toMatchObject(codeOf('CHECKPOINT_DAMAGED'))
      expect((await readFile(file)).equals(bad)).toBe(true)
    }
    await writeFile(file, good.subarray(0, good.length / 2))
    await expect(train(options({ ...short, checkpoint }))).rejects.toMatchObject(codeOf('CHECKPOINT_DAMAGED'))
    const nowhere = { file: join(folder, 'no', 'such', 'folder', 'x') }
    await expect(train(options({ ...short, checkpoint: nowhere }))).rejects.toMatchObject(codeOf('CANNOT_WRITE'))
  })

  it('refuses what it cannot train', async () => {
    const untrained: Stage<'model'> = { ...stage, training: undefined as never }
    const { training: _, ...without } = stage
    expect(untrained.training).toBeUndefined()
    const cases: readonly (readonly [Partial<TrainOptions>, TrainingError['code'] | 'OPTION'])[] = [
      [{ compressor: compressorOf([without]) }, 'NOTHING_TO_TRAIN'],
      [{ compressor: compressorOf([stage, { ...stage, id: 'twice' }]) }, 'NOTHING_TO_TRAIN'],
      [{ tokens: 0 }, 'OPTION'],
      [{ tokens: 1.5 }, 'OPTION'],
      [{ batch: 0 }, 'OPTION'],
      [{ seed: -1 }, 'OPTION'],
      [{ learningRate: 0 }, 'OPTION'],
      [{ measurements: -1 }, 'OPTION'],
      [{ sequences: [] }, 'OPTION'],
      [{ heldOut: [] }, 'OPTION'],
      [{ sequences: [Int32Array.of(1)] }, 'OPTION'],
      [{ sequences: [Int32Array.of(1, 2), Int32Array.of(1, 2, 3)] }, 'OPTION'],
      [{ heldOut: [Int32Array.of(1, 260)] }, 'OPTION'],
      [{ sequences: [new Int32Array(4096)] }, 'OPTION'],
      [{ steps: 4 } as never, 'OPTION'],
      [{ checkpoint: { file: 'nowhere', asIs: true } }, 'OPTION'],
    ]
    for (const [more, code] of cases) await expect(train(options(more))).rejects.toMatchObject({ code })
    await expect(train(options({ learningRate: 1e30 }))).rejects.toMatchObject(codeOf('NOT_FINITE'))
    const short = { length: LENGTH, most: 3 }
    expect(() => textSequences('too short', model.tokenizer, short)).toThrow(OptionError)
  })
})
