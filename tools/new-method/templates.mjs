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
    'package.json': manifest(method),
    'tsconfig.json': `${JSON.stringify({ extends: '../../../tsconfig.base.json', include: ['src'] }, null, 2)}\n`,
    'tsup.config.ts': "import { preset } from '../../../tools/presets/tsup'\n\nexport default preset()\n",
    'README.md': readme(method),
    'fixtures/README.md': fixtures(method),
    'src/index.ts': `export { ${method.camel} } from './${method.name}'\n`,
    'src/options.ts': stage.options(method),
    [`src/${method.name}.ts`]: stage.source(method),
    [`src/${method.name}.test.ts`]: stage.test(method),
  }
}

function manifest({ kind, name, title }) {
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
        './package.json': './package.json',
      },
      files: ['dist', 'src', '!src/**/*.test.ts', '!src/**/testing/**', 'README.md'],
      engines: { node: '>=20' },
      scripts: {
        build: 'tsup',
        types: 'tsup --dts-only',
        prepack: 'node ../../../tools/setup/run.mjs setup',
      },
      dependencies: { '@kvloom/core': 'workspace:^', '@tensorflow/tfjs-core': 'catalog:' },
      devDependencies: { '@tensorflow/tfjs-backend-cpu': 'catalog:' },
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

function fixtures({ title }) {
  return `# Fixtures of ${title}

Golden vectors: small safetensors files and a \`golden.json\` that names them, from the authors' own code. Write here which
revision of it made them, with which command and seed.
`
}
