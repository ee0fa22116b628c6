/** Everything in one import: the contract, the methods, the engine and the evaluation; kernels under their own name. */

export * from '@kvloom/core'
export * from '@kvloom/engine'
export * from '@kvloom/eval'
export * as kernels from '@kvloom/kernels'
export * from '@kvloom/methods'
