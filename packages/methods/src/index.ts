/** The methods of kvloom: each factory by its name, all of them in one list, and their packages. */

export * from './generated/methods'
export { methodPackages } from './generated/packages'
export type { Method } from './method'
