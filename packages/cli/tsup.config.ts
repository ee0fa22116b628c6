import { preset } from '../../tools/presets/tsup'

export default preset({ entry: ['src/index.ts', 'src/main.ts'] })
