export { kvsharer } from './kvsharer'
export { kvsharerOptions } from './options'
