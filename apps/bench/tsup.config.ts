import { preset } from '../../tools/presets/tsup'

export default preset({ entry: ['src/attention.ts', 'src/decode-step.ts', 'src/reference.ts'], dts: false })
