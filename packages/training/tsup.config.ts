import { preset } from '../../tools/presets/tsup'

export default preset()
