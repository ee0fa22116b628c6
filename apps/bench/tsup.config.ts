import { preset } from '../../tools/presets/tsup'

export default preset({
  entry: ['attention', 'decode-step', 'matrix', 'reference', 'resident', 'same-bits'].map((name) => `src/${name}.ts`),
  dts: false,
})
