import { goldenPreset } from '../../../tools/presets/tsup'

export default goldenPreset()
