import { defineConfig, type Options } from 'tsup'

/** The one tsup configuration of every package: ESM, declarations, source maps, nothing bundled in. */
export const preset = (overrides: Options = {}) =>
  defineConfig({
    entry: ['src/index.ts'],
    format: ['esm'],
    target: 'es2022',
    dts: true,
    sourcemap: true,
    clean: true,
    treeshake: true,
    ...overrides,
  })
