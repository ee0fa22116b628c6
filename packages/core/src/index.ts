export { dropping, refuseHeadSets, refuseLayerSets, refuseSlots } from './accept'
export type { ModelOrShape, WindowChange } from './arguments'
export { checkCompressor } from './arguments'
export { artifactFingerprint, checkArtifact, learned, learningStages, needsCalibration, ready } from './artifacts'
export { askedOf, NOTHING_ASKED } from './asked'
export { restoreCache } from './cache/file/restore'
export { openCache } from './cache/open'
export type { CalibrateOptions } from './calibration/calibrate'
export { calibrate } from './calibration/calibrate'
export { checkModel } from './calibration/check-model'
export {
  actsOn,
  compose,
  exceptLayers,
  foldSpace,
  foldSpaces,
  keySide,
  modelSpace,
  NO_SEALING,
  onLayers,
  ownRows,
  protectLayers,
  split,
  stagesOn,
  window,
} from './compose'
export type {
  AffineLayout,
  AnyStage,
  Artifact,
  Asked,
  Block,
  BlockField,
  Bound,
  BoundModel,
  BudgetStage,
  ByteLedger,
  CalibrationRun,
  ChannelGroups,
  CodebookLayout,
  CustomLayout,
  Encoded,
  FisherWish,
  Fit,
  FittedFor,
  FittedStage,
  Foreseen,
  HeadShare,
  HostTensor,
  IsBlock,
  Json,
  Kind,
  KVCache,
  KVCompressor,
  LaneView,
  LayerCensus,
  LayerSamples,
  Learned,
  Lossless,
  MergedWindow,
  MethodCard,
  ModelShape,
  ModelWeights,
  Needs,
  Observation,
  Observed,
  Part,
  PartCensus,
  PendingReplay,
  Phase,
  PickContext,
  Picker,
  Predictor,
  PredictorSource,
  Protected,
  Quantizer,
  Ready,
  Recall,
  ReplayContext,
  ReplayPass,
  ReplayTexts,
  Resample,
  Rope,
  RowRange,
  RowStore,
  ScoreContext,
  Scorer,
  SegmentView,
  Site,
  Space,
  Stage,
  StageFacts,
  TensorForm,
  Tensors,
  Training,
  TrainingLoss,
  TrainingPhase,
  Transform,
  When,
  Window,
  Windows,
} from './contract'
export { KINDS } from './contract'
export type { Cure, CureForm, Cures } from './cures'
export { cureExpression } from './cures'
export type { MethodFactory } from './define'
export {
  defineMethod,
  definePick,
  defineQuantizer,
  defineScorer,
} from './define'
export { defineLossless } from './define-lossless'
export { defineTransform } from './define-transform'
export {
  ArtifactMismatch,
  CacheStateError,
  CalibrationError,
  ContextOverflow,
  IncompatibleStages,
  KvloomError,
  ModelMismatch,
  NonFiniteError,
  NotCalibrated,
  OptionError,
  RefusedError,
  SerializedCacheError,
  UnsupportedStage,
  WindowError,
} from './errors'
export { gainOf } from './gain'
export { evenWindows } from './merge-zones'
export type { OptionKind, OptionSchema, OptionSpec, OptionsOf } from './options'
export { flag, fraction, integer, layerList, oneOf, optional, parseOptions, refuseUnknown } from './options'
export { floorOf, liftProtected } from './protect'
export { shareOut } from './share-out'
export { sharedTokens } from './shared-tokens'
export { siteOf } from './site'
export { perKvHead, upload } from './tensors'
export { takeTurn } from './turn'
