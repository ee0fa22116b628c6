// What differs between kinds of methods: options, the algorithm and its first tests.

const header = ({ title }) => `/**
 * ${title}: what it does, in two sentences.
 *
 * Paper: title, link, section. What differs from it and why.
 */`

/** The suites that every method passes. */
const SUITES = ({ name, camel }) => `const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
// One backend and shape while you work; without them the suite runs everything.
testCompressor(runner, { name: '${name}', make: () => ${camel}(), backends: ['wasm'], shapes: SHAPES.slice(0, 1) })
`

/** An option-free method built from one stage per part (or one for both). */
const byStage = (kind, { stage, imports = '', doc, parts }) => ({
  options: ({
    camel,
  }) => `/** Options of \`${camel}()\`: none yet. Declare each with \`integer\`, \`fraction\`, \`oneOf\`, \`flag\`, \`optional\` of @kvloom/core. */
export const ${camel}Options = {}
`,
  source: (method) => `${header(method)}
import { type Bound, type Stage, defineMethod } from '@kvloom/core'
${imports}import { ${method.camel}Options } from './options'

/** ${doc} */
export const ${method.camel} = defineMethod(
  { name: '${method.name}', title: '${method.title}', summary: 'One line that says what it does.', chunkInvariant: true },
  ${method.camel}Options,
  (chosen) => {
    const stage = (${parts ? "part: 'keys' | 'values'" : ''}): Stage<'${kind}'> => ({
      kind: '${kind}',
      id: '${method.name}',
      options: chosen,
      when: '${stage.when}',
${parts ? '      on: { part },\n' : ''}      accepts: (space) => space,
      bind: (${stage.bound.includes('site') ? 'site' : ''}): Bound['${kind}'] => (${stage.bound}),
    })
    return { stages: [${parts ? "stage('keys'), stage('values')" : 'stage()'}] }
  },
)
`,
  test: (method) => `import { SHAPES, testCompressor } from '@kvloom/conformance'
import { testGolden } from '@kvloom/golden'
import { adapter } from '../golden/adapter'
import { OptionError } from '@kvloom/core'
import { describe, expect, it } from 'vitest'
import { ${method.camel} } from './${method.name}'

${SUITES(method)}
describe('${method.name}', () => {
  it('is a method with one name', () => {
    expect(${method.camel}.card.name).toBe('${method.name}')
    expect(${method.camel}().stages.every(({ kind, id }) => kind === '${kind}' && id === '${method.name}')).toBe(true)
  })

  it('refuses an option it does not have', () => {
    const given: Record<string, unknown> = { unknown: 1 }
    expect(() => ${method.camel}(given)).toThrow(OptionError)
  })
})
`,
})

const SITE = `const model: ModelShape = {
  name: 'test',
  layers: 1,
  queryHeads: 4,
  kvHeads: 2,
  keyDim: 8,
  valueDim: 8,
  contextLength: 128,
  rope: null,
  attentionScale: 1 / Math.sqrt(8),
  fingerprint: 'test',
}
const site = siteOf(model, 0, 'keys')
`

const eviction = {
  options: ({ camel }) => `import { fraction } from '@kvloom/core'

/** Options of \`${camel}()\`. */
export const ${camel}Options = {
  keep: fraction({ default: 0.5, doc: "Fraction of the prompt's tokens kept, per KV head." }),
}
`,
  source: (method) => `${header(method)}
import { defineScorer } from '@kvloom/core'
import { sqrt, square, sum } from '@tensorflow/tfjs-core'
import { ${method.camel}Options } from './options'

/** Keeps the tokens of largest score at the end of the prompt. */
export const ${method.camel} = defineScorer({
  name: '${method.name}',
  title: '${method.title}',
  summary: 'One line that says what it does.',
  options: ${method.camel}Options,
  needs: { keys: { of: 'keys' } },
  // Put the paper's score here: keys [kvHeads, tokens, keyDim] to scores [kvHeads, tokens], larger = keep.
  score: ({ keys }) => sqrt(sum(square(keys), -1)),
})
`,
  test: (method) => `import { SHAPES, testCompressor } from '@kvloom/conformance'
import { testGolden } from '@kvloom/golden'
import { adapter } from '../golden/adapter'
import { type ModelShape, OptionError, siteOf } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { type Tensor, setBackend, tensor3d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { ${method.camel} } from './${method.name}'

${SUITES(method)}
${SITE}
beforeAll(async () => {
  await registerKernels('cpu')
  await setBackend('cpu')
})

const scorerOf = (keep: number) => {
  const [stage] = ${method.camel}({ keep }).stages
  if (stage?.kind !== 'score') throw new Error('${method.name} has no score stage')
  return stage.bind(site)
}

describe('${method.name}', () => {
  it('keeps the fraction it was asked for', () => {
    expect(scorerOf(0.25).count(100, 100)).toBe(25)
    expect(scorerOf(1).count(100, 100)).toBe(100)
  })

  it('gives every KV head and token a number', async () => {
    // [kvHeads = 1, tokens = 2, keyDim = 2]
    const keys = tensor3d([[[3, 4], [0, 1]]])
    const scores = scorerOf(0.5).score({ keys }, {}, { phase: 'promptEnd', tokensSeen: 2 }) as Tensor
    expect(scores.shape).toEqual([1, 2])
    expect([...(await scores.data())]).toEqual([5, 1])
  })

  it('refuses a fraction above 1', () => {
    expect(() => ${method.camel}({ keep: 1.5 })).toThrow(OptionError)
  })
})
`,
}

const quantizers = {
  options: ({ camel }) => `import { integer } from '@kvloom/core'

/** Options of \`${camel}()\`. */
export const ${camel}Options = {
  recent: integer({ default: 32, min: 0, doc: 'Newest tokens that stay exact.' }),
}
`,
  source: (method) => `${header(method)}
import { defineQuantizer, evenWindows } from '@kvloom/core'
import { clone } from '@tensorflow/tfjs-core'
import { ${method.camel}Options } from './options'

/** Stores sealed rows as they are, until the paper's encoding stands here. */
export const ${method.camel} = defineQuantizer({
  name: '${method.name}',
  title: '${method.title}',
  summary: 'One line that says what it does.',
  options: ${method.camel}Options,
  window: ({ recent }) => evenWindows({ recent, block: 1 }),
  quantizer: () => ({
    // Every tensor of a block, and what the ledger counts it as.
    layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
    rowsPerGroup: 1,
    theoreticalBitsPerValue: 32,
    // Pack here, with the kernels of @kvloom/kernels: rows [heads, tokens, dim] f32 to named tensors, which are what is held.
    encode: (rows) => ({ rows: clone(rows) }),
    decode: ({ rows }) => clone(rows),
  }),
})
`,
  test: (method) => `import { SHAPES, testCompressor } from '@kvloom/conformance'
import { testGolden } from '@kvloom/golden'
import { adapter } from '../golden/adapter'
import { type ModelShape, OptionError, siteOf } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { randomNormal, setBackend } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { ${method.camel} } from './${method.name}'

${SUITES(method)}
/** Largest error of a value after encode and decode. */
const TOLERANCE = 0

${SITE}
beforeAll(async () => {
  await registerKernels('cpu')
  await setBackend('cpu')
})

describe('${method.name}', () => {
  it('gives back rows within its tolerance', async () => {
    const [stage] = ${method.camel}().stages
    if (stage?.kind !== 'quantize') throw new Error('${method.name} has no quantize stage')
    const quantizer = stage.bind(site)
    // [heads, tokens, dim]
    const rows = randomNormal([2, 4, 8], 0, 1, 'float32', 1)
    const decoded = quantizer.decode(quantizer.encode(rows), 4)
    expect(decoded.shape).toEqual(rows.shape)
    const [given, got] = [await rows.data(), await decoded.data()]
    const error = Math.max(...Array.from(given, (value, i) => Math.abs(value - Number(got[i]))))
    expect(error).toBeLessThanOrEqual(TOLERANCE)
  })

  it('proposes the window of its options', () => {
    expect(${method.camel}({ recent: 64 }).window?.keys.recent).toBe(64)
  })

  it('refuses half a token', () => {
    expect(() => ${method.camel}({ recent: 0.5 })).toThrow(OptionError)
  })
})
`,
}

/** By folder under packages/. */
export const stageTemplates = {
  quantizers,
  eviction,
  predictors: byStage('predict', {
    parts: true,
    doc: 'Predicts nothing (zeros) from the layer before, until the fitted predictor stands here.',
    imports: "import { type Tensor, zerosLike } from '@tensorflow/tfjs-core'\n",
    stage: {
      when: 'seal',
      bound:
        '{ sources: [{ back: 1, part }], predict: ([before]) => zerosLike(before as Tensor), keepReconstruction: false }',
    },
  }),
  recall: byStage('recall', {
    parts: false,
    doc: 'Recalls the oldest rows, until the index of the paper stands here.',
    imports: "import { range, reshape, tidy, tile } from '@tensorflow/tfjs-core'\n",
    stage: {
      when: 'read',
      bound: `{
        tier: 'device',
        sinks: 4,
        every: 64,
        budget: 256,
        index: async () => ({}),
        // int32 [queryHeads, count]: which indexed rows each query head reads
        select: async (queries, _blocks, _sizes, count) =>
          tidy(() => tile(reshape(range(0, count, 1, 'int32'), [1, count]), [queries.shape[0] ?? 1, 1])),
      }`,
    },
  }),
  'low-rank': byStage('transform', {
    parts: true,
    doc: 'Stores rows as they are, until the projection stands here.',
    imports: "import { clone, type Tensor } from '@tensorflow/tfjs-core'\n",
    stage: {
      when: 'seal',
      bound: `{
        fitted: 'model',
        needs: {},
        main: { heads: site.heads, dim: site.dim },
        // rows [heads, tokens, dim] = scale * (main . up) + bias; one tensor of rows per layer of the group
        encode: ([rows]) => ({ main: clone(rows as Tensor) }),
        decoder: () => ({}),
      }`,
    },
  }),
  sequence: byStage('resample', {
    parts: false,
    doc: 'Keeps the newer half of a full cache, until the map along the sequence stands here.',
    imports: "import { slice } from '@tensorflow/tfjs-core'\n",
    stage: {
      when: 'room',
      bound: '{ sinks: 4, capacity: 512, to: 254, apply: (rows) => slice(rows, [0, 254, 0], [-1, 254, -1]) }',
    },
  }),
  'cross-layer': byStage('model', {
    parts: false,
    doc: 'Every layer reads its own cache, until the choice of the paper stands here.',
    stage: { when: 'load', bound: '{ sourceLayer: (layer) => layer }' },
  }),
  lossless: byStage('lossless', {
    parts: true,
    doc: 'Leaves the bytes of a tensor as they are, until the code stands here.',
    stage: {
      when: 'leave',
      bound: `{
        encode: ({ values }) => new Uint8Array(values.slice().buffer),
        decode: (bytes, { shape, dtype }) => {
          const { buffer } = bytes.slice()
          return { shape, values: dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer) }
        },
      }`,
    },
  }),
}
