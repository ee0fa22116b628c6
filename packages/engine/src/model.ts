// A loaded model: configuration, tokenizer, weights on a tfjs backend, and the step that a cache and a loop need.
import { type KVCache, type ModelShape, type ModelWeights, type Phase, refuseUnknown, takeTurn } from '@kvloom/core'
import { getBackend, setBackend, type Tensor, tensor } from '@tensorflow/tfjs-core'
import { type EngineBackend, useBackend } from './backend'
import { EngineError } from './errors'
import { dequantize } from './files/dequantize'
import { llamaForward, type WantedLogits } from './llama'
import type { ModelConfig } from './models/config'
import { locateModel, type ModelOrigin } from './models/locate'
import { type ModelFiles, type ModelLocation, openModelFiles } from './models/model-files'
import type { ResolveProgress } from './models/store'
import { replayContext } from './replay'
import { shapeOf } from './shape'
import { checkedIds, ForwardError } from './token-ids'
import { createTokenizer, type Tokenizer } from './tokenizer/tokenizer'
import { type HeldWeight, type LlamaWeights, type LoadProgress, loadWeights } from './weights'

/** A model in memory. It owns its weights; `dispose()` frees them. */
export interface Model {
  readonly config: ModelConfig
  /** What caches and compressors must know of it. */
  readonly shape: ModelShape
  /** What it was loaded from. */
  readonly files: ModelFiles
  /** What was asked for and where it was found; null for sources, opened files, and models that stages changed. */
  readonly origin: ModelOrigin | null
  /** The weights as the forward pass holds them, on `backend`; the model's. */
  readonly packed: LlamaWeights
  /** The backend its weights lie on. */
  readonly backend: EngineBackend
  /** The tokenizer; throws the `ModelFileError` or `TokenizerError` of loading where the model's files have none that is understood. */
  readonly tokenizer: Tokenizer
  /** What is wrong with the model's files and does not keep it from running, a sentence each: end ids that are no tokens. */
  readonly warnings: readonly string[]
  /** Bytes of the weights in memory. */
  readonly weightBytes: number
  /** How each weight is held. */
  readonly held: readonly HeldWeight[]
  /** The original weights as f32 tensors `[out, in]`, read from the file when asked; each is the caller's. For analysing methods. */
  readonly weights: ModelWeights
  /**
   * One step: `ids` `[n]`, of the vocabulary, through all layers, their keys and values into `cache`.
   * @param phase 'prompt' for a part of a prompt, 'promptEnd' for its last part, 'decode' for generated tokens
   * @returns logits, the caller's: `[1, vocab]` for 'last' (default), `[n, vocab]` for 'all'; final hidden states `[n, hidden]` for 'hidden'; else null
   * @throws ForwardError, and what the cache throws (ContextOverflow before anything is stored, NonFiniteError)
   */
  forward(
    cache: KVCache,
    ids: Int32Array | readonly number[],
    phase: Phase,
    options?: { readonly logits?: WantedLogits },
  ): Promise<Tensor | null>
  /** Frees the weights. Calling it again does nothing. */
  dispose(): void
}

/** Options of `loadModel`. */
export interface LoadModelOptions {
  /** tfjs backend to run on; becomes the current one. Default 'wasm'. */
  readonly backend?: EngineBackend
  /** Folder of the model cache, for a name. Default `~/.cache/kvloom/models`. */
  readonly cacheDir?: string
  /** Use only what is on this machine. Default false. */
  readonly offline?: boolean
  /** Token for private and gated models of the Hub. Default none. */
  readonly accessToken?: string
  /** Called while a model is fetched; often. */
  readonly onFetch?: (progress: ResolveProgress) => void
  /** Called after each weight. */
  readonly onProgress?: (progress: LoadProgress) => void
  /** Aborts between two weights with the signal's reason; nothing stays in memory. */
  readonly signal?: AbortSignal
}

/**
 * Loads a model onto a tfjs backend, weights packed as in the file.
 * @param location a .gguf file or a folder with config.json and safetensors, by path (Node) or as sources, or opened files; or a name
 *   (`tiny`, those of `knownModels`, `owner/repo[/file.gguf]` on the Hub), which is resolved as `resolveModel` does it and may be fetched
 * @throws OptionError, BackendError, ModelFileError, ResolveError for a name that cannot be had, UnsupportedArchitectureError, or the
 *   signal's reason
 */
export async function loadModel(location: ModelLocation | ModelFiles, options: LoadModelOptions = {}): Promise<Model> {
  refuseUnknown('loadModel', options, OPTIONS)
  options.signal?.throwIfAborted()
  const origin = typeof location === 'string' ? await originOf(location, options) : null
  const files =
    typeof location === 'object' && location !== null && 'config' in location
      ? location
      : await openModelFiles(origin?.path ?? location)
  const fingerprintOf = (digest: string): string => (files.saved?.digest === digest ? files.saved.fingerprint : digest)
  return loadModelFiles(files, options, fingerprintOf, origin)
}

const OPTIONS = ['backend', 'cacheDir', 'offline', 'accessToken', 'onFetch', 'onProgress', 'signal']

function originOf(
  location: string,
  { cacheDir, offline, accessToken, onFetch, signal }: LoadModelOptions,
): Promise<ModelOrigin> {
  return locateModel(location, {
    ...(cacheDir === undefined ? {} : { cacheDir }),
    ...(offline === undefined ? {} : { offline }),
    ...(accessToken === undefined ? {} : { accessToken }),
    ...(onFetch ? { onProgress: onFetch } : {}),
    ...(signal ? { signal } : {}),
  })
}

/** Loads opened files; `fingerprintOf` names the model whose configuration and weights have this digest. */
export async function loadModelFiles(
  files: ModelFiles,
  { backend = 'wasm', onProgress, signal }: LoadModelOptions,
  fingerprintOf: (digest: string) => string,
  origin: ModelOrigin | null = null,
): Promise<Model> {
  await useBackend(backend)
  const { weights, held, digest, dispose } = await loadWeights(files, { onProgress, signal })
  const shape = shapeOf(files.config, fingerprintOf(digest))
  return new LlamaModel(files, origin, shape, backend, weights, held, await tokenizerOf(files), dispose)
}

class LlamaModel implements Model {
  readonly config: ModelConfig
  readonly warnings: readonly string[]
  readonly weightBytes: number
  readonly weights: ModelWeights
  private disposed = false

  constructor(
    readonly files: ModelFiles,
    readonly origin: ModelOrigin | null,
    readonly shape: ModelShape,
    readonly backend: EngineBackend,
    readonly packed: LlamaWeights,
    readonly held: readonly HeldWeight[],
    private readonly loadedTokenizer: Tokenizer | Error,
    private readonly freeWeights: () => void,
  ) {
    this.config = files.config
    this.warnings = files.warnings
    this.weightBytes = held.reduce((sum, each) => sum + each.bytes, 0)
    this.weights = {
      shape,
      names: () => [...files.weights.keys()],
      async get(name) {
        const weight = await files.tensor(name)
        return tensor(dequantize(weight.format, weight.data), [...weight.shape])
      },
    }
  }

  get tokenizer(): Tokenizer {
    if (this.loadedTokenizer instanceof Error) throw this.loadedTokenizer
    return this.loadedTokenizer
  }

  async forward(
    cache: KVCache,
    given: Int32Array | readonly number[],
    phase: Phase,
    { logits = 'last' }: { readonly logits?: WantedLogits } = {},
  ): Promise<Tensor | null> {
    await takeTurn()
    const ids = this.check(cache, given)
    if (getBackend() !== this.backend) await setBackend(this.backend)
    const result = await llamaForward(this.config, this.packed, cache, ids, phase, logits)
    try {
      await replayContext(this, cache)
    } catch (error) {
      result?.dispose()
      throw error
    }
    return result
  }

  private check(cache: KVCache, given: Int32Array | readonly number[]): Int32Array {
    if (this.disposed)
      throw new ForwardError('DISPOSED', {
        given: 'a model that was disposed',
        allowed: 'a loaded model',
        cure: 'Load it again.',
      })
    if (cache.model.fingerprint !== this.shape.fingerprint)
      throw new ForwardError('OTHER_MODEL', {
        given: `a cache of ${cache.model.name} (${cache.model.fingerprint})`,
        allowed: `a cache of ${this.shape.name} (${this.shape.fingerprint})`,
        cure: "Open the cache with this model's `shape`.",
      })
    const ids = checkedIds('forward', given, this.config.vocabSize)
    if (ids.length === 0)
      throw new ForwardError('NO_TOKENS', {
        given: 'a step of no tokens',
        allowed: 'at least one token',
        cure: 'Begin a prompt with the start token if there is nothing else.',
      })
    return ids
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    this.freeWeights()
  }
}

/** The tokenizer, or why there is none: models can be run on ids alone. */
async function tokenizerOf(files: ModelFiles): Promise<Tokenizer | Error> {
  try {
    return createTokenizer(await files.tokenizer())
  } catch (error) {
    if (error instanceof EngineError) return error
    throw error
  }
}
