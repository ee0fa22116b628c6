import { preset } from '../../tools/presets/tsup'

export default preset({ entry: { index: 'src/index.ts', golden: 'src/generated/golden.ts' } })
