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

/** A method's package: its index, and on the subpath `./golden` its adapter for golden data. */
export const methodPreset = () => preset({ entry: { index: 'src/index.ts', golden: 'golden/adapter.ts' } })
