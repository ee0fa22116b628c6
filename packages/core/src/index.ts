export { openCache } from './cache/cache'
export { restoreCache } from './cache/restore'
export { ready } from './calibrate'
export { compose, foldSpace, NO_SEALING, onLayers, protectLayers, split, stagesOn, window } from './compose'
export type {
  AffineLayout,
  AnyStage,
  Artifact,
  Bound,
  BudgetStage,
  ByteLedger,
  CalibrationRun,
  Fit,
  Json,
  Kind,
  KVCache,
  KVCompressor,
  LaneView,
  LayerCensus,
  LayerSamples,
  MethodCard,
  ModelShape,
  ModelStage,
  ModelWeights,
  Needs,
  Observation,
  Observed,
  Part,
  Phase,
  Pick,
  Quantizer,
  Ready,
  Recall,
  Rope,
  RowRange,
  RowStore,
  Scorer,
  SegmentView,
  Site,
  Space,
  Stage,
  Tensors,
  Transform,
  When,
  Window,
  Windows,
} from './contract'
export { KINDS } from './contract'
export type { MethodFactory } from './define'
export { defineMethod, definePick, defineQuantizer, defineScorer } from './define'
export {
  CacheStateError,
  ContextOverflow,
  IncompatibleStages,
  KvloomError,
  ModelMismatch,
  NonFiniteError,
  NotCalibrated,
  OptionError,
  SerializedCacheError,
  UnsupportedStage,
  WindowError,
} from './errors'
export type { OptionSchema, OptionSpec, OptionsOf } from './options'
export { fraction, integer, layerList, oneOf, parseOptions } from './options'
