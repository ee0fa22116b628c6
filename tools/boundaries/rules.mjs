// Who may import whom, as rules for dependency-cruiser. Paths are relative to the root of the workspace.
//
//   errors <- kernels, math <- core <- methods;  engine, training and eval know core, not the methods;  packages/methods lists them;
//   cli, apps, kvloom know all.

const CATEGORIES = [
  'quantizers',
  'predictors',
  'eviction',
  'recall',
  'low-rank',
  'sequence',
  'cross-layer',
  'lossless',
  'recipes',
]
const METHODS = `packages/(?:${CATEGORIES.join('|')})`

/** What each package may import besides itself, npm packages and Node. */
const ALLOWED = {
  errors: [],
  kernels: ['errors'],
  math: ['errors'],
  'tiny-model': [],
  core: ['errors', 'kernels', 'math'],
  engine: ['core', 'errors', 'kernels', 'math', 'tiny-model'],
  training: ['core', 'engine', 'errors', 'kernels'],
  eval: ['core', 'engine', 'errors', 'kernels', 'math', 'tiny-model', 'training'],
  golden: ['core', 'errors', 'kernels', 'math'],
  conformance: ['core', 'golden', 'kernels', 'math'],
}

const METHOD_MAY_IMPORT = ['core', 'kernels', 'math']
const GOLDEN_OF_METHOD_MAY_ALSO_IMPORT = ['golden']
const TEST_OF_METHOD_MAY_ALSO_IMPORT = ['conformance', 'golden', 'tiny-model']
/** Adapters for golden data: beside `src`, on a subpath of their own. */
const ADAPTER = '^packages/[^/]+/[^/]+/golden/'

const OWN_CODE = '^(?:packages|apps|examples|docs|tools)/'
const packagesNamed = (names) => `^packages/(?:${names.join('|')})/`
const TEST_FILE = '\\.test\\.ts$'
const NO_NPM = '(?:^|/)node_modules/'

const layerRules = Object.entries(ALLOWED).map(([name, allowed]) => ({
  name: `${name}-knows-only-${allowed.length === 0 ? 'itself' : allowed.join('-')}`,
  comment: `packages/${name} may import ${allowed.length === 0 ? 'no other package' : `only ${allowed.join(', ')}`}.`,
  severity: 'error',
  from: { path: `^packages/${name}/`, pathNot: `^packages/${name}/golden/` },
  // Its tests may run an example; that nothing else does is a rule below.
  to: { path: OWN_CODE, pathNot: [packagesNamed([name, ...allowed]), '^tools/presets/', '^examples/', NO_NPM] },
}))

/** Packages outside of the methods that have an adapter for golden data. */
const ADAPTERS = ['engine']
const adapterRules = ADAPTERS.flatMap((name) => [
  {
    name: `adapter-of-${name}-knows-also-golden`,
    comment: `packages/${name}/golden may import packages/golden besides.`,
    severity: 'error',
    from: { path: `^packages/${name}/golden/` },
    to: { path: OWN_CODE, pathNot: [packagesNamed([name, 'golden', ...ALLOWED[name]]), '^tools/presets/', NO_NPM] },
  },
  {
    name: `source-of-${name}-does-not-know-golden`,
    comment: 'Golden data is not installed with a package; only its adapter, on the subpath ./golden, knows of it.',
    severity: 'error',
    from: { path: `^packages/${name}/src/`, pathNot: TEST_FILE },
    to: { path: `^packages/${name}/golden/` },
  },
])

const methodRule = (name, comment, from, allowed) => ({
  name,
  comment,
  severity: 'error',
  from,
  to: {
    path: OWN_CODE,
    // `$1/$2` is the importing method itself.
    pathNot: ['^packages/$1/$2/', packagesNamed(allowed), '^tools/presets/', NO_NPM],
  },
})

const methodOf = (categories) => `^packages/(${categories.join('|')})/([^/]+)/`
const PLAIN = CATEGORIES.filter((category) => category !== 'recipes')

const byName = (name, from, itself) => ({
  name,
  comment: 'Another package is imported by its name (@kvloom/core), never by a path into its folder.',
  severity: 'error',
  from: { path: from },
  to: { path: '^packages/', dependencyTypes: ['local'], pathNot: itself },
})

/** @type {import('dependency-cruiser').IConfiguration} */
export const configuration = {
  forbidden: [
    ...layerRules,
    ...adapterRules,
    methodRule(
      'method-knows-core-kernels-math',
      'A method never imports another method, the engine or anything above; only a recipe (packages/recipes) mixes methods.',
      { path: methodOf(PLAIN), pathNot: [TEST_FILE, ADAPTER] },
      METHOD_MAY_IMPORT,
    ),
    methodRule(
      'adapter-of-method-knows-also-golden',
      "A method's adapter for golden data may import packages/golden besides.",
      { path: `${methodOf(PLAIN)}golden/` },
      [...METHOD_MAY_IMPORT, ...GOLDEN_OF_METHOD_MAY_ALSO_IMPORT],
    ),
    {
      name: 'source-of-method-does-not-know-golden',
      comment: 'Golden data is not installed with a method; only its adapter, on the subpath ./golden, knows of it.',
      severity: 'error',
      from: { path: `${methodOf(CATEGORIES)}src/`, pathNot: TEST_FILE },
      to: { path: ['^packages/$1/$2/golden/', packagesNamed(['golden'])] },
    },
    methodRule(
      'test-of-method-knows-also-conformance',
      'The tests of a method may import the conformance suite and the tiny model besides.',
      { path: `${methodOf(PLAIN)}.*${TEST_FILE}` },
      [...METHOD_MAY_IMPORT, ...TEST_OF_METHOD_MAY_ALSO_IMPORT],
    ),
    {
      name: 'recipe-knows-methods',
      comment: 'A recipe may import methods, core, kernels and math; not the engine or anything above.',
      severity: 'error',
      from: { path: methodOf(['recipes']) },
      to: {
        path: OWN_CODE,
        pathNot: [
          `^${METHODS}/`,
          packagesNamed([...METHOD_MAY_IMPORT, ...TEST_OF_METHOD_MAY_ALSO_IMPORT]),
          '^tools/presets/',
          NO_NPM,
        ],
      },
    },
    {
      name: 'list-of-methods-knows-methods',
      comment: 'The list of methods may import methods, core and golden; not the engine or anything above.',
      severity: 'error',
      from: { path: '^packages/methods/' },
      to: {
        path: OWN_CODE,
        pathNot: [`^${METHODS}/`, packagesNamed(['methods', 'core', 'errors', 'golden']), '^tools/presets/', NO_NPM],
      },
    },
    {
      name: 'nothing-below-knows-apps-or-tools',
      comment: 'Packages are published; apps, examples, docs and tools are not.',
      severity: 'error',
      from: { path: '^packages/', pathNot: TEST_FILE },
      to: { path: '^(?:apps|examples|docs|tools)/', pathNot: ['^tools/presets/', NO_NPM] },
    },
    {
      name: 'kvloom-does-not-know-the-command-line',
      comment:
        'kvloom re-exports libraries; a program that imports it must not load the command line. Only its bin/ does.',
      severity: 'error',
      from: { path: '^packages/kvloom/src/', pathNot: TEST_FILE },
      to: { path: '^packages/cli/' },
    },
    byName('method-by-name-not-by-path', methodOf(CATEGORIES), '^packages/$1/$2/'),
    byName('package-by-name-not-by-path', `^packages/(?!(?:${CATEGORIES.join('|')})/)([^/]+)/`, '^packages/$1/'),
    {
      name: 'no-circles',
      comment:
        'Two files that need each other, be it for types only, cannot be read one after the other; a third file holds what both need then.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'resolvable',
      comment: 'What is imported must exist and stand in the package.json of the importing package.',
      severity: 'error',
      from: { path: '^(?:packages|apps|examples)/' },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: {
      path: '(?:^|/)(?:dist|fixtures|\\.vitepress)/|\\.generated\\.ts$|^packages/kernels/assembly/|^examples/third-party/',
    },
    tsPreCompilationDeps: true,
    combinedDependencies: false,
    preserveSymlinks: false,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['kvloom-source', 'import', 'node', 'default', 'types'],
      extensions: ['.ts', '.mts', '.mjs', '.js', '.json'],
    },
  },
}
