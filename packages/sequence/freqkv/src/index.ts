export { freqkv } from './freqkv'
export { freqkvOptions } from './options'
