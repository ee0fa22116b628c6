/** The methods of kvloom: each factory by its name, all of them in one list, and their packages. */

export { plainName } from './composition/build'
export { composition } from './composition/composition'
export { messageInGrammar } from './composition/cure'
export { CompositionError } from './composition/errors'
export * from './generated/methods'
export { methodPackages } from './generated/packages'
export type { Method } from './method'
