// The files of a fresh method package. What a template computes is the simplest thing that is correct, to be replaced.
import { stageTemplates } from './stages.mjs'

/** Folders under packages/ that hold methods of one kind. */
export const KINDS = Object.keys(stageTemplates)

/**
 * @param {{ kind: string, name: string, camel: string, pascal: string, title: string }} method
 * @returns {Record<string, string>} text by path in the package
 */
export function filesOf(method) {
  const stage = stageTemplates[method.kind]
  return {
    'package.json': manifest(method, stage.test(method).includes('@kvloom/kernels')),
    'tsconfig.json': `${JSON.stringify({ extends: '../../../tsconfig.base.json', include: ['src', 'golden'] }, null, 2)}\n`,
    'tsup.config.ts': "import { goldenPreset } from '../../../tools/presets/tsup'\n\nexport default goldenPreset()\n",
    'README.md': readme(method),
    'golden/README.md': golden(method),
    'golden/adapter.ts': adapter(method),
    [`golden/${method.name}/golden.json`]: data(method),
    'src/index.ts': `export { ${method.camel} } from './${method.name}'\nexport { ${method.camel}Options } from './options'\n`,
    'src/options.ts': stage.options(method),
    [`src/${method.name}.ts`]: stage.source(method),
    [`src/${method.name}.test.ts`]: stage.test(method),
  }
}

function manifest({ kind, name, title }, usesKernels) {
  const folder = `packages/${kind}/${name}`
  return `${JSON.stringify(
    {
      name: `@kvloom/${name}`,
      version: '0.0.0',
      description: `${title}: one line that says what it does.`,
      license: 'Apache-2.0',
      type: 'module',
      sideEffects: false,
      repository: { type: 'git', url: 'git+https://github.com/kvloom/kvloom.git', directory: folder },
      exports: {
        '.': { 'kvloom-source': './src/index.ts', types: './dist/index.d.ts', import: './dist/index.js' },
        './golden': {
          'kvloom-source': './golden/adapter.ts',
          types: './dist/golden.d.ts',
          import: './dist/golden.js',
        },
        './package.json': './package.json',
      },
      files: ['dist', 'golden/*.ts', 'src', '!src/**/*.test.ts', '!src/**/testing/**', 'README.md'],
      engines: { node: '>=20' },
      scripts: {
        build: 'tsup',
        types: 'tsup --dts-only',
        prepack: 'node ../../../tools/setup/run.mjs setup',
      },
      dependencies: { '@kvloom/core': 'workspace:^', '@tensorflow/tfjs-core': 'catalog:' },
      peerDependencies: { '@kvloom/golden': 'workspace:^' },
      peerDependenciesMeta: { '@kvloom/golden': { optional: true } },
      devDependencies: {
        '@kvloom/conformance': 'workspace:^',
        '@kvloom/golden': 'workspace:^',
        ...(usesKernels ? { '@kvloom/kernels': 'workspace:^' } : {}),
      },
    },
    null,
    2,
  )}\n`
}

function readme({ name, camel, title }) {
  return `# @kvloom/${name}

${title}: what it does, in two sentences.

**When to use it.** **When not.**

\`\`\`sh
npm install @kvloom/${name}
\`\`\`

\`\`\`ts
import { compose } from '@kvloom/core'
import { ${camel} } from '@kvloom/${name}'

const compressor = compose(${camel}())
\`\`\`

On the command line: \`npm start -- --compressor "${name}"\`.

## Options

<!-- options: made by \`npm run docs:tables\`, do not edit -->
<!-- options: end -->

## What is stored

The layout of what stays in memory, bit by bit.

## Paper and credit

Title, authors, link, licence of the authors' code.
`
}

function golden({ title }) {
  return `# Golden data of ${title}

Put the numbers of the authors' own code here: small safetensors files and a \`golden.json\` that names them (the form is described in
\`packages/golden\`). Write which revision of the code made them, with which command and seed. The case that is there now follows from
the options alone.
`
}

/** Rows that are held after a prompt: what follows from the options alone, without data of the authors. */
const TOKENS = 20

function data({ kind, name }) {
  const held = kind === 'eviction' ? TOKENS / 2 : TOKENS
  const counted = { name: 'rows-held', options: { tokens: TOKENS }, scalars: { held } }
  return `${JSON.stringify({ method: name, source: 'the options of the method', cases: [counted] }, null, 2)}\n`
}

function adapter({ camel, name, title }) {
  return `/** Cases of ${title}: how many rows a cache holds after a prompt, until the authors' data is here. */
import { type CaseAdapter, compareScalar, feed, modelOf, numberOption, openExact, rowsHeldBy } from '@kvloom/golden'
import { ${camel} } from '../src/${name}'

/** ${title} against its golden data. */
export const adapter: CaseAdapter = {
  method: '${name}',
  async run(golden) {
    const tokens = numberOption(golden, 'tokens')
    const shape = [1, tokens, 8]
    // Rows that differ in length: row t is of t + 1.
    const rows = { shape, data: Float32Array.from({ length: tokens * 8 }, (_, at) => Math.floor(at / 8) + 1) }
    const all = { queries: rows, keys: rows, values: rows }
    const cache = openExact(${camel}(), modelOf(all, 2))
    try {
      await feed(cache, all, 0, tokens, 'promptEnd')
      const held = await rowsHeldBy(cache, 1)
      return { tensors: [compareScalar(golden, 'held', held.shape[1] ?? 0, 0)] }
    } finally {
      cache.dispose()
    }
  },
}
`
}
