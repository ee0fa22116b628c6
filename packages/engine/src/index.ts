export { loadArtifacts, saveArtifacts } from './artifact-file'
export type { EngineBackend } from './backend'
export { BackendError, engineBackends, useBackend } from './backend'
export { loadCache, saveCache } from './cache-file'
export type { CalibrationProgress, CalibrationRunOptions } from './calibration/run'
export { calibrationRun } from './calibration/run'
export { withWeights } from './changed-weights'
export type {
  ArtifactFileErrorCode,
  EngineErrorParts,
  ModelFileErrorCode,
  ResolveErrorCode,
  TokenizerErrorCode,
} from './errors'
export {
  ArtifactFileError,
  EngineError,
  ModelFileError,
  ResolveError,
  TokenizerError,
  UnsupportedArchitectureError,
} from './errors'
export type { ByteSource, FileFolder } from './files/byte-source'
export { blobSource, bytesSource, diskFolder, fileSource, urlFolder } from './files/byte-source'
export { dequantize } from './files/dequantize'
export type { Described } from './files/described'
export { openDescribed, writeDescribed } from './files/described'
export type { GgufFile, GgufTensor, GgufValue } from './files/gguf'
export { openGguf } from './files/gguf'
export type {
  LoadedTensor,
  SafetensorsDtype,
  SafetensorsEntry,
  SafetensorsFile,
  TensorValues,
} from './files/safetensors'
export { openSafetensors, openSafetensorsFolder, readSafetensors, tensorValues } from './files/safetensors'
export type { TensorToWrite } from './files/safetensors-write'
export { encodeSafetensors, writeSafetensors } from './files/safetensors-write'
export type { FileFormat, GgmlType } from './files/tensor-types'
export { fileFormats, formatLayout } from './files/tensor-types'
export type { GeneratedToken, GenerateInto, GenerateOptions, Generation, Prompt } from './generate'
export { generate, generateAll } from './generate'
export type { WantedLogits } from './llama'
export type { LoadModelOptions, Model } from './model'
export { loadModel } from './model'
export { applyModelStages, shapeBehindModelStages } from './model-stages'
export type { Activation } from './models/activations'
export type { Architecture, BiasFlags, ModelConfig, RopeScaling, SlidingWindows, YarnRamp } from './models/config'
export { supportedArchitectures } from './models/config'
export type { CachedModel, ModelInspection } from './models/inspect'
export { inspectModel, listModels } from './models/inspect'
export type { KnownModel } from './models/known-models'
export { findKnownModel, knownModels } from './models/known-models'
export type { SavedIdentity } from './models/kvloom-config'
export type { ModelOrigin } from './models/locate'
export type { ModelFiles, ModelLocation, TokenizerFiles, WeightInfo, WeightTensor } from './models/model-files'
export { openModelFiles } from './models/model-files'
export type { ModelSource, ResolvedModel, ResolveOptions } from './models/resolve'
export { defaultCacheDir, resolveModel } from './models/resolve'
export type { ResolveProgress } from './models/store'
export type { PrefillModel, PrefillOptions, PrefillProgress } from './prefill'
export { defaultChunk, prefill } from './prefill'
export type { UniformRandom } from './random'
export { uniformRandom } from './random'
export { ropeOf } from './rope'
export type { Candidates, SamplingOptions } from './sampling'
export { argmax, candidates, LogitsError, sample } from './sampling'
export type { SaveModelOptions } from './save-model'
export { saveModel } from './save-model'
export { ForwardError } from './token-ids'
export type { ChatMessage } from './tokenizer/chat-template'
export type { StreamDecoder } from './tokenizer/stream-decoder'
export type {
  DecodeOptions,
  EncodeOptions,
  StreamOptions,
  Tokenizer,
  TokenizerFacts,
} from './tokenizer/tokenizer'
export { createTokenizer } from './tokenizer/tokenizer'
export type {
  LayerStates,
  LayerTarget,
  SequenceGradients,
  SequenceLosses,
  TrainableModel,
} from './trainable'
export { trainable } from './trainable'
export type { WeightValues } from './trained-weights'
export type { HeldWeight, LayerWeights, Linear, LlamaWeights, LoadProgress } from './weights'
