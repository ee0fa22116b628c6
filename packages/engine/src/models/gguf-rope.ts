// RoPE of a GGUF file, from its keys to frequencies, as llama.cpp reads and applies them:
//   src/llama-model.cpp, llama_model_base::load_hparams     which keys, with which defaults
//   src/llama-context.cpp, llama_context::llama_context     extrapolation and attention factors
//   ggml/src/ggml-cpu/ops.cpp, rope_yarn, ggml_rope_cache_init; ggml/src/ggml.c, ggml_rope_yarn_corr_dims     the angles
//
// With e the angle of a pair per token, `factor` and `ext`, the angle is e / factor · (1 - ramp · ext) + e · ramp · ext. The
// keys rope.scaling.yarn_* mean here what they mean to llama.cpp where it reads them (src/models/grok.cpp, mistral3.cpp; it
// passes over them in other families).
import { ModelFileError } from '../errors'
import { extrapolatedShares, plainFrequencies } from '../rope'
import type { RopeScaling } from './config'
import { notComputed, type SettingsReader } from './settings-reader'

/** Far above any model, so that a damaged width cannot make us allocate gigabytes of angles. */
const WIDEST_HEAD = 1 << 16

/** The rotation of a model. */
export interface GgufRope {
  readonly theta: number
  readonly dim: number
  readonly scaling: RopeScaling
}

/**
 * @param read settings without the name of the architecture in front
 * @param divisors what `rope_freqs.weight` holds, if the file has it: the angle of the i-th pair is divided by the i-th
 * @throws ModelFileError for scalings that this engine does not compute, and for rotations of a part of the head
 */
export function readGgufRope(
  file: string,
  read: SettingsReader,
  { keyDim, contextLength }: { readonly keyDim: number; readonly contextLength: number },
  divisors: readonly number[] | undefined,
): GgufRope {
  const theta = read.number('rope.freq_base', 10_000)
  const dim = read.count('rope.dimension_count', keyDim)
  // llama.cpp refuses it too ("invalid n_rot"): which rows of a head are pairs is not defined then.
  if (dim !== keyDim) read.refuse('rope.dimension_count', `${keyDim}, the width of a head`, notComputed)
  if (keyDim > WIDEST_HEAD) read.refuse('attention.key_length', `at most ${WIDEST_HEAD}`)
  if (divisors) checkDivisors(file, divisors, dim / 2)
  const rope = { theta, dim }
  const type = scalingType(read)
  const factor = type === 'none' ? 1 : scalingFactor(read)
  const givenExtension = read.anyNumber('rope.scaling.yarn_ext_factor', -1)
  const extension = givenExtension >= 0 ? givenExtension : type === 'yarn' ? 1 : 0
  const ownFactor = read.number('rope.scaling.attn_factor', 1)
  if (extension === 0) {
    const attentionFactor = ownFactor * read.number('rope.scaling.yarn_attn_factor', 1)
    return { ...rope, scaling: divided(rope, factor, divisors, attentionFactor) }
  }
  const logMultiplier = read.anyNumber('rope.scaling.yarn_log_multiplier', 0)
  const attentionFactor = (ownFactor * magnitude(factor, 1)) / magnitude(factor, logMultiplier)
  const ramp = {
    factor,
    originalContextLength: read.count('rope.scaling.original_context_length', contextLength),
    betaFast: read.number('rope.scaling.yarn_beta_fast', 32),
    betaSlow: read.number('rope.scaling.yarn_beta_slow', 1),
  }
  if (extension === 1 && !divisors) {
    const own = ownFactor === 1 && logMultiplier === 0 ? undefined : attentionFactor
    return { ...rope, scaling: { kind: 'yarn', ...ramp, attentionFactor: own } }
  }
  const shares = extrapolatedShares(theta, dim, ramp)
  const frequencies = plainFrequencies(theta, dim).map((plain, i) => {
    const each = plain / (divisors?.[i] ?? 1)
    const share = (shares[i] ?? 0) * extension
    return Math.fround((each / factor) * (1 - share) + each * share)
  })
  return { ...rope, scaling: { kind: 'frequencies', frequencies: [...frequencies], attentionFactor } }
}

/** Angles divided by `factor` and by the divisors, in the plainest words there are for it. */
function divided(
  { theta, dim }: { readonly theta: number; readonly dim: number },
  factor: number,
  divisors: readonly number[] | undefined,
  attentionFactor: number,
): RopeScaling {
  if (attentionFactor === 1) {
    if (!divisors) return factor === 1 ? { kind: 'none' } : { kind: 'linear', factor }
    if (factor === 1) return { kind: 'factors', factors: divisors }
  }
  const frequencies = plainFrequencies(theta, dim).map((each, i) => Math.fround(each / (factor * (divisors?.[i] ?? 1))))
  return { kind: 'frequencies', frequencies: [...frequencies], attentionFactor }
}

/** A file without a type means linear scaling: by its factor, or by none. */
function scalingType(read: SettingsReader): 'none' | 'linear' | 'yarn' {
  const type = read.given('rope.scaling.type') ?? 'linear'
  if (type === 'none' || type === 'linear' || type === 'yarn') return type
  return read.refuse('rope.scaling.type', 'none, linear, yarn', notComputed)
}

/** The factor by its key or, where that is absent, by the key of old files; 0 means 1. */
function scalingFactor(read: SettingsReader): number {
  const key = read.present('rope.scaling.factor') ? 'rope.scaling.factor' : 'rope.scale_linear'
  return read.given(key) === 0 ? 1 : read.number(key, 1)
}

/** By how much logits grow when a context is `scale` times as long (YaRN, arXiv:2309.00071, section 3.4). */
const magnitude = (scale: number, multiplier: number): number =>
  scale <= 1 ? 1 : 0.1 * multiplier * Math.log(scale) + 1

function checkDivisors(file: string, divisors: readonly number[], pairs: number): void {
  const wrong = divisors.find((each) => !(Number.isFinite(each) && each > 0))
  if (divisors.length === pairs && wrong === undefined) return
  throw new ModelFileError('BAD_SHAPE', {
    given: `${file}, rope_freqs.weight of ${divisors.length} values${wrong === undefined ? '' : `, one of them ${wrong}`}`,
    allowed: `${pairs} positive numbers, one for each pair of a head`,
    cure: 'The file is damaged; fetch it again.',
  })
}
