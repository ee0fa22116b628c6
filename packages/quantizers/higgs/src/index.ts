export { type HiggsSettings, higgs, higgsQuantizer } from './higgs'
export { higgsOptions } from './options'
