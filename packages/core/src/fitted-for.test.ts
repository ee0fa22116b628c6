import { describe, expect, it } from 'vitest'
import { artifactFingerprint, checkArtifact, checkArtifacts, ready } from './artifacts'
import { compose, exceptLayers, onLayers, split } from './compose'
import type { Artifact, KVCompressor, ModelShape } from './contract'
import { defineMethod, defineQuantizer } from './define'
import { ArtifactMismatch } from './errors'
import { fittedFor } from './fitted-for'
import { integer } from './options'

const model = { name: 'tiny', fingerprint: 'weights-a' } as ModelShape
const bits = { bits: integer({ default: 2, min: 1, doc: '' }) }
const never = (): never => {
  throw new Error('not bound here')
}
const codes = defineQuantizer({ name: 'codes', options: bits, quantizer: never })
const learner = defineMethod(
  { name: 'learner', title: '', summary: '', chunkInvariant: true },
  { rank: integer({ default: 4, min: 1, doc: '' }) },
  (options) => ({
    stages: [
      {
        kind: 'predict',
        id: 'learner',
        options,
        when: 'seal',
        accepts: (space) => space,
        fit: { scope: 'layer', run: never },
        bind: never,
      },
    ],
  }),
)
const mix = (given: { bits?: number; rank?: number } = {}): KVCompressor =>
  compose(learner({ rank: given.rank ?? 4 }), codes({ bits: given.bits ?? 2 }))
const fitted = (compressor: KVCompressor, shape = model): Artifact => ({
  stage: 'learner',
  fingerprint: artifactFingerprint(shape, compressor, 'learner'),
  fittedFor: fittedFor(shape, compressor),
  json: {},
  tensors: {},
})
const why = (artifact: Artifact, compressor: KVCompressor, shape = model): string => {
  try {
    checkArtifact(shape, compressor, artifact)
    return ''
  } catch (error) {
    expect(error).toBeInstanceOf(ArtifactMismatch)
    return (error as Error).message
  }
}

describe('an artifact of something else', () => {
  it('fits what it was fitted for, after a way through JSON too', () => {
    const artifact = fitted(mix())
    expect(why(artifact, mix())).toBe('')
    const read = JSON.parse(JSON.stringify(artifact)) as Artifact
    expect(why(read, mix())).toBe('')
    expect(() => checkArtifacts(model, ready(mix(), [read]))).not.toThrow()
  })
  it('says which option of which stage differs', () => {
    expect(why(fitted(mix()), mix({ bits: 3 }))).toContain(
      'it was fitted with codes at bits=2, and bits=3 is asked for. Calibrate again',
    )
    const all = why(fitted(mix()), mix({ bits: 3, rank: 8 }))
    expect(all).toContain('learner at rank=4, and rank=8 is asked for; it was fitted with codes at bits=2')
    const parts = (values: number) =>
      compose(learner(), split({ keys: codes({ bits: 2 }), values: codes({ bits: values }) }))
    expect(why(fitted(parts(2)), parts(4))).toContain('codes of the values at bits=2, and bits=4 is asked for')
  })
  it('says which neighbour, layer or model differs', () => {
    expect(why(fitted(mix()), learner())).toContain('it was fitted beside codes (quantize), which is not here')
    expect(why(fitted(learner()), mix())).toContain('codes (quantize) is here, and was not when it was fitted')
    expect(why(fitted(mix()), compose(exceptLayers([0], learner()), codes()))).toContain(
      'learner on keys and values of all layers, and keys and values of all layers except 0 is asked for',
    )
    expect(why(fitted(mix()), compose(learner(), onLayers([1], codes())))).toContain('keys of layers 1 is asked for')
    const other = { name: 'tiny', fingerprint: 'weights-b' } as ModelShape
    expect(why(fitted(mix(), other), mix())).toContain(
      'it was fitted on the model tiny (weights weights-b), and this is tiny (weights weights-a)',
    )
    expect(why(fitted(mix()), codes())).toContain('no stage learner is asked for')
  })
  it('says that an older kvloom or a changed file says nothing', () => {
    const { fittedFor: _, ...old } = fitted(mix())
    expect(why(old, mix())).toBe('')
    expect(why(old, mix({ bits: 3 }))).toContain('fitted by an older kvloom')
    expect(why({ ...fitted(mix()), fingerprint: 'x' }, mix())).toContain('the file was changed')
  })
  it('is refused by ready() before there is a model, and so are twins', () => {
    expect(() => ready(mix({ bits: 3 }), [fitted(mix())])).toThrow(/codes at bits=2, and bits=3/)
    expect(() => ready(mix(), [fitted(mix()), fitted(mix())])).toThrow(/two artifacts of this stage/)
    expect(() => ready(mix(), [fitted(mix()), { ...fitted(mix()), stage: 'somebody else' }])).not.toThrow()
  })
})
