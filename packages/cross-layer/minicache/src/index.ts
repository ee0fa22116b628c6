export { angleBetween, minicache } from './minicache'
export { minicacheOptions } from './options'
