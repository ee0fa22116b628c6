export { minicache } from './minicache'
export { minicacheOptions } from './options'
