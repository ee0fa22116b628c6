import '@tensorflow/tfjs-backend-cpu'
import { registerKernels } from '@kvloom/kernels'
import { memory, setBackend } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { learned } from '../artifacts'
import { askedOf } from '../asked'
import { compose } from '../compose'
import type { AnyStage, Asked, Foreseen, KVCompressor, ModelShape, Quantizer, Site } from '../contract'
import { defineQuantizer } from '../define'
import { ModelMismatch } from '../errors'
import { integer } from '../options'
import { checkModel } from './check-model'

beforeAll(async () => {
  await registerKernels('cpu')
  await setBackend('cpu')
})

const model: ModelShape = {
  name: 'synthetic',
  layers: 2,
  queryHeads: 4,
  kvHeads: 2,
  keyDim: 16,
  valueDim: 24,
  contextLength: 256,
  rope: null,
  attentionScale: 0.25,
  fingerprint: 'synthetic',
}
const layout: Quantizer = {
  layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
  rowsPerGroup: 1,
  theoreticalBitsPerValue: 4,
  encode: (rows) => ({ rows }),
  decode: ({ rows }) => rows as never,
}
/** Refuses dims that its group does not divide, then looks for its artifact. */
const grouped = (name: string, learns: boolean) =>
  defineQuantizer({
    name,
    options: { group: integer({ default: 8, min: 1, doc: '' }) },
    ...(learns
      ? { fit: () => ({ scope: 'layer', run: () => Promise.reject(new Error('not run here')) }) as const }
      : {}),
    quantizer: ({ group }, site, artifact) => {
      if (site.dim % group !== 0) throw new ModelMismatch(name, `a group of ${group}.`, 'Take another.')
      if (learns) learned(artifact, site, 'table')
      return layout
    },
  })
const quantizes = grouped('quantizes', false)
const learns = grouped('learns', true)
/** A transform that has to be fitted; its dims are not known before. */
const projects = (): KVCompressor => ({
  card: { name: 'projects', title: '', summary: '', chunkInvariant: true },
  stages: (['keys', 'values'] as const).map(
    (part): AnyStage => ({
      kind: 'transform',
      id: 'projects',
      options: null,
      when: 'seal',
      on: { part },
      accepts: (space) => ({ ...space, latent: true }),
      fit: { scope: 'layer', run: () => Promise.reject(new Error('not run here')) },
      bind: (site, artifact) => {
        learned(artifact, site, 'map')
        throw new Error('not bound here')
      },
    }),
  ),
})

describe('checkModel', () => {
  it('refuses what the model refuses, and leaves nothing behind', () => {
    const before = memory().numTensors
    expect(() => checkModel(model, quantizes())).not.toThrow()
    expect(() => checkModel(model, quantizes({ group: 5 }))).toThrow(/quantizes does not fit this model: a group of 5/)
    expect(memory().numTensors).toBe(before)
  })
  it('asks stages that are not fitted what they refuse on their own', () => {
    expect(() => checkModel(model, learns())).not.toThrow()
    expect(() => checkModel(model, learns({ group: 5 }))).toThrow(/learns does not fit this model/)
  })
  it('takes what an artifact decides as fitting', () => {
    expect(() => checkModel(model, projects())).not.toThrow()
    // The rank is not known: a group that divides no dim of the model may divide it.
    expect(() => checkModel(model, compose(projects(), quantizes({ group: 5 })))).not.toThrow()
  })
  it('asks stages behind a transform for what its fit foresees', () => {
    const foreseeing = (heads: number): KVCompressor => {
      const { card, stages } = projects()
      const foresee = ({ dim }: Site, { channels }: Asked): Foreseen => ({
        main: { heads, dim: channels * Math.floor(dim / channels) },
      })
      return { card, stages: stages.map((s) => ({ ...s, fit: { ...s.fit, foresee } }) as AnyStage) }
    }
    const undeclared = compose(foreseeing(2), quantizes({ group: 5 }))
    expect(() => checkModel(model, undeclared)).toThrow(/quantizes does not fit this model: a group of 5/)
    const declared = compose(
      foreseeing(2),
      defineQuantizer({
        name: 'declares',
        options: {},
        channels: () => ({ multipleOf: 5, of: 'head' }),
        quantizer: (_, { dim }) => {
          if (dim % 5 !== 0) throw new ModelMismatch('declares', `${dim} channels.`, '')
          return layout
        },
      })(),
    )
    expect(() => checkModel(model, declared)).not.toThrow()
    expect(askedOf(model, declared, declared.stages[0] as AnyStage)).toEqual({ channels: 5, layers: [] })
  })
  it('refuses model stages that the model did not go through', () => {
    const changes: KVCompressor = {
      card: { name: 'changes', title: '', summary: '', chunkInvariant: true },
      stages: [
        {
          kind: 'model',
          id: 'changes',
          options: null,
          when: 'load',
          accepts: (space) => space,
          bind: () => ({ transform: (weights) => weights }),
        },
      ],
    }
    expect(() => checkModel(model, changes)).toThrow(/changes the weights/)
    expect(() => checkModel({ ...model, transformedBy: ['changes'] }, changes)).not.toThrow()
  })
})
