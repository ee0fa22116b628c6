export { freqkv, lowPass } from './freqkv'
export { freqkvOptions } from './options'
