import { methodPreset } from '../../../tools/presets/tsup'

export default methodPreset()
