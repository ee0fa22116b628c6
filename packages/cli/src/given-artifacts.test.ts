import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Artifact, ArtifactMismatch, artifactFingerprint, calibrate } from '@kvloom/core'
import { calibrationRun, loadArtifacts, loadModel, type Model, resolveModel, saveArtifacts } from '@kvloom/engine'
import { type CalibrationState, calibrateComposition, givenFitting, prepareComposition } from '@kvloom/eval'
import { aquaKv, kivi } from '@kvloom/methods'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { artifactsOf } from './commands/artifacts'

const [two, three] = [aquaKv({ bits: 2, block: 16 }), aquaKv({ bits: 3, block: 16 })]
const WHY = /linear-predictor does not fit: it was fitted with higgs at bits=2, and bits=3 is asked for/

let model: Model
let folder: string
let fitted: readonly Artifact[]
const progress: number[] = []

beforeAll(async () => {
  const { path } = await resolveModel('tiny')
  model = await loadModel(path, { backend: 'wasm' })
  folder = await mkdtemp(join(tmpdir(), 'kvloom-given-'))
  fitted = await calibrateComposition({
    model,
    compressor: two,
    data: { sequences: 2, tokens: 64 },
    onProgress: ({ fraction }: CalibrationState) => progress.push(fraction),
  })
}, 60_000)
afterAll(async () => {
  model.dispose()
  await rm(folder, { recursive: true })
})

describe('artifacts that were fitted for other options', () => {
  it('are refused by calibrate() and calibrateComposition() instead of being fitted again', async () => {
    const run = calibrationRun(model, { sequences: [Int32Array.of(1, 2, 3)] })
    await expect(calibrate(three, run, { known: fitted })).rejects.toThrow(WHY)
    await expect(calibrateComposition({ model, compressor: three, known: fitted })).rejects.toThrow(WHY)
  })
  it('are refused by prepareComposition(), also behind a way through a file', async () => {
    const file = join(folder, 'two.safetensors')
    await saveArtifacts(file, fitted)
    const given = await loadArtifacts(file)
    expect(given).toEqual(fitted)
    const wish = { model, given, cacheDir: join(folder, 'cache') }
    await expect(prepareComposition({ ...wish, compressor: three })).rejects.toThrow(WHY)
    const { artifacts } = await prepareComposition({ ...wish, compressor: two })
    expect(artifacts).toEqual(given)
  })
  it('of an older kvloom fit by their fingerprint, and are refused without words about what they were for', () => {
    const old = fitted.map(({ fittedFor: _, ...rest }) => rest)
    expect(givenFitting(old, model.shape, two)).toEqual(old)
    expect(() => givenFitting(old, model.shape, three)).toThrow(/fitted by an older kvloom.*Calibrate again/)
  })
})

describe('artifacts that are given', () => {
  it('are chosen by what they fit, and those of other compositions are passed over', () => {
    const stranger: Artifact = { stage: 'lorc', fingerprint: 'x', json: {}, tensors: {} }
    expect(givenFitting([...fitted, stranger], model.shape, two)).toEqual(fitted)
    const other = fitted.map((a) => ({ ...a, fingerprint: artifactFingerprint(model.shape, three, a.stage) }))
    expect(givenFitting([...fitted, ...other], model.shape, two)).toEqual(fitted)
    expect(() => givenFitting([stranger], model.shape, kivi())).not.toThrow()
    expect(() => givenFitting([{ ...stranger, stage: 'linear-predictor' }], model.shape, two)).toThrow(ArtifactMismatch)
  })
  it('must belong to a composition that is run', async () => {
    const file = join(folder, 'two.safetensors')
    expect(await artifactsOf([file], [kivi(), three])).toHaveLength(1)
    await expect(artifactsOf([file], [kivi()])).rejects.toThrow(
      /holds what linear-predictor learned; nothing here learns/,
    )
    await expect(artifactsOf([join(folder, 'none')], [three])).rejects.toThrow(/cannot be read/)
  })
})

it('progress of a calibration never goes back', () => {
  expect(progress.length).toBeGreaterThan(4)
  expect(progress).toEqual([...progress].sort((a, b) => a - b))
})
