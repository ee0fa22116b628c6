import { testCompressor } from '@kvloom/conformance'
import { testGolden } from '@kvloom/golden'
import { describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter.js'
import { longValues } from './index.js'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter], backends: ['wasm'] })
testCompressor(runner, { name: 'long-values', make: () => longValues({ keep: 0.4 }), backends: ['wasm'] })
