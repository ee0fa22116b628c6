/**
 * The front door: load a model, mix compressors, generate, compare. Every method stands here under its name, and each library whole
 * under its own: `core`, `engine`, `evaluation`, `kernels`.
 */
export type {
  Artifact,
  ByteLedger,
  KVCache,
  KVCompressor,
  LayerCensus,
  MethodCard,
  ModelShape,
  OptionSchema,
  Ready,
} from '@kvloom/core'
export * as core from '@kvloom/core'
export {
  ArtifactMismatch,
  CacheStateError,
  CalibrationError,
  ContextOverflow,
  calibrate,
  checkModel,
  compose,
  defineLossless,
  defineMethod,
  definePick,
  defineQuantizer,
  defineScorer,
  defineTransform,
  exceptLayers,
  fraction,
  IncompatibleStages,
  integer,
  KvloomError,
  layerList,
  ModelMismatch,
  NonFiniteError,
  NotCalibrated,
  needsCalibration,
  OptionError,
  oneOf,
  onLayers,
  openCache,
  ownRows,
  protectLayers,
  ready,
  restoreCache,
  SerializedCacheError,
  sharedTokens,
  split,
  UnsupportedStage,
  WindowError,
  window,
} from '@kvloom/core'
export type {
  GeneratedToken,
  GenerateInto,
  GenerateOptions,
  Generation,
  LoadModelOptions,
  Model,
  Prompt,
  Tokenizer,
} from '@kvloom/engine'
export * as engine from '@kvloom/engine'
export {
  ArtifactFileError,
  BackendError,
  calibrationRun,
  EngineError,
  ForwardError,
  generate,
  generateAll,
  LogitsError,
  listModels,
  loadArtifacts,
  loadCache,
  loadModel,
  ModelFileError,
  prefill,
  ResolveError,
  resolveModel,
  saveArtifacts,
  saveCache,
  saveModel,
  TokenizerError,
  UnsupportedArchitectureError,
} from '@kvloom/engine'
export type { CalibrateOnOptions, CalibrationData, Composition, Prepared, Report } from '@kvloom/eval'
export * as evaluation from '@kvloom/eval'
export {
  calibrateOn,
  calibrationText,
  compareRows,
  EvalOptionError,
  footprintOf,
  heldBy,
  heldInWords,
  InterruptedError,
  NonFiniteLogitsError,
  prepareComposition,
  protocolE,
  protocolP,
  protocolW,
  ReportError,
  readReport,
  renderHtml,
  renderTable,
  sampleText,
  writeReport,
} from '@kvloom/eval'
export * as kernels from '@kvloom/kernels'
// `composition`, and every method: the names are made from the folders of the methods.
export * from '@kvloom/methods'
export type { CompareOptions, Compositions } from './compare'
export { compare } from './compare'
