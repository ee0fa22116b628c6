export type { CaseAdapter, GoldenAdapter, Outcome, Press, PressAdapter, Presses } from './adapter'
export { Arena, withArena } from './arena'
export { fromTensor, type NdArray, sizeOf, sliceLikeNumpy, toTensor } from './array'
export { makeWith, numberOption, numbersOption, textOption } from './case-options'
export {
  type CodebookBlocks,
  type CodebookResult,
  compareCodes,
  compareScalar,
  hostOf,
  oneHead,
  relativeSquareError,
  siteIn,
  throughCodebook,
} from './codebook-rows'
export { type CompareExtras, compareArrays, type TensorResult, wrong } from './compare'
export { compareNamed } from './compare-named'
export { GoldenError } from './errors'
export { formatGolden, summarizeGolden } from './format'
export { compareKept, compareMask, TIE } from './kept'
export { type GoldenOptions, type GoldenResult, runGolden } from './run'
export { readGoldenTensors } from './safetensors'
export type { CaseJson, GoldenCase, Tolerance } from './schema'
export { type GoldenTestOptions, type TestRunner, testGolden, withTimeout } from './test'
export {
  bestOf,
  feed,
  heldByHead,
  keptByCache,
  lastAttention,
  maskByCache,
  modelOf,
  openExact,
  type Rows,
  rowsHeldBy,
  rowsOf,
  scorerOf,
  scoresOf,
} from './through-cache'
