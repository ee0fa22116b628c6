import { preset } from '../../tools/presets/tsup'

export default preset({
  entry: [
    'aqua-spread',
    'attention',
    'decode-step',
    'long-run',
    'matrix',
    'reference',
    'resident',
    'same-bits',
    'steps',
    'training',
  ].map((name) => `src/${name}.ts`),
  dts: false,
})
