import { defineConfig, type Options } from 'tsup'

/**
 * The one tsup configuration of every package: ESM and source maps, nothing bundled in. `tsup` writes the JavaScript;
 * `tsup --dts-only` the declarations, which take longer and which running programs do not need.
 */
export const preset = (overrides: Options = {}) =>
  defineConfig({
    entry: ['src/index.ts'],
    format: ['esm'],
    target: 'es2022',
    sourcemap: true,
    clean: ['!**/*.d.ts'],
    ...overrides,
  })

/** A package with golden data: its index, and on the subpath `./golden` its adapter. */
export const goldenPreset = () => preset({ entry: { index: 'src/index.ts', golden: 'golden/adapter.ts' } })
