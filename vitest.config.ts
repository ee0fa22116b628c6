import { defineConfig } from 'vitest/config'

// Tests run on the sources: every package lists them under the condition "kvloom-source".
export default defineConfig({
  resolve: { conditions: ['kvloom-source'] },
  ssr: { resolve: { conditions: ['kvloom-source'], externalConditions: ['node', 'import'] } },
  test: {
    include: ['packages/**/*.test.ts', 'apps/**/*.test.ts', 'tools/**/*.test.ts', 'examples/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**', 'examples/third-party/**'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    poolOptions: { forks: { maxForks: 2 } },
  },
})
