/**
 * The contract, one file per noun: what a compressor is, what its stages do, what a cache answers. Begin with `compressor.ts`. Short words
 * that comments use in a fixed meaning (sealed, lane, slot, site, space, ...) are defined in docs/guide/words.md.
 */
export type { AffineLayout, CodebookLayout, RowStore } from '@kvloom/kernels'
export type * from './artifact'
export type * from './cache'
export type * from './compressor'
export type * from './evict'
export * from './kinds'
export type * from './ledger'
export type * from './lossless'
export type * from './model'
export type * from './observation'
export type * from './recall'
export type * from './replay'
export type * from './rows'
export type * from './space'
export type * from './training'
export type * from './values'
export type * from './window'
