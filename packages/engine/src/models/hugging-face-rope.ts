// `rope_scaling` of config.json, read and written, as huggingface/transformers 4.56 computes it (modeling_rope_utils.py).
import type { RopeScaling } from './config'
import { notComputed, settingsReader } from './settings-reader'

type Settings = Readonly<Record<string, unknown>>

/**
 * @param scaling the block, undefined where the file has none
 * @param contextLength of the model, which YaRN stretches where the block does not say what it stretches
 * @throws ModelFileError for a kind that this engine does not compute, by its name
 */
export function readRopeScaling(file: string, scaling: Settings | undefined, contextLength: number): RopeScaling {
  if (!scaling) return { kind: 'none' }
  const read = settingsReader(`${file}, rope_scaling`, (key) => scaling[key])
  const kinds = [scaling['rope_type'], scaling['type']].filter((each) => each !== undefined && each !== null)
  if (kinds.length === 2 && kinds[0] !== kinds[1])
    read.refuse('type', `${JSON.stringify(kinds[0])}, as rope_type says`, 'Remove one of the two.')
  const [kind] = kinds
  if (kind === undefined && (scaling['factor'] ?? null) !== null)
    read.refuse('rope_type', 'default, linear, llama3, yarn')
  if (kind === undefined || kind === 'default') return { kind: 'none' }
  if (kind === 'linear') return { kind: 'linear', factor: read.number('factor') }
  if (kind === 'llama3') {
    return {
      kind: 'llama3',
      factor: read.number('factor'),
      lowFrequencyFactor: read.number('low_freq_factor'),
      highFrequencyFactor: read.number('high_freq_factor'),
      originalContextLength: read.count('original_max_position_embeddings'),
    }
  }
  if (kind === 'yarn') return readYarn(read, contextLength)
  const key = scaling['rope_type'] === undefined ? 'type' : 'rope_type'
  return read.refuse(key, 'default, linear, llama3, yarn', notComputed)
}

/** As in transformers, 0 and null mean that a setting is absent. */
function readYarn(read: ReturnType<typeof settingsReader>, contextLength: number): RopeScaling {
  const orAbsent = (key: string): number | undefined => (read.given(key) === 0 ? undefined : read.optionalNumber(key))
  const factor = read.number('factor')
  const [own, whole] = [orAbsent('mscale'), orAbsent('mscale_all_dim')]
  const magnitude = (multiplier: number): number => (factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1)
  const ratio = own === undefined || whole === undefined ? undefined : magnitude(own) / magnitude(whole)
  const truncate = read.flag('truncate', true)
  return {
    kind: 'yarn',
    factor,
    originalContextLength:
      read.given('original_max_position_embeddings') === 0
        ? contextLength
        : read.count('original_max_position_embeddings', contextLength),
    betaFast: orAbsent('beta_fast') ?? 32,
    betaSlow: orAbsent('beta_slow') ?? 1,
    attentionFactor: read.optionalNumber('attention_factor') ?? ratio,
    ...(truncate ? {} : { truncate }),
  }
}

/** `rope_scaling` of config.json; null for none, undefined where it has no words for it. */
export function writeRopeScaling(scaling: RopeScaling): Settings | null | undefined {
  switch (scaling.kind) {
    case 'none':
      return null
    case 'linear':
      return { rope_type: 'linear', factor: scaling.factor }
    case 'llama3':
      return {
        rope_type: 'llama3',
        factor: scaling.factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalContextLength,
      }
    case 'yarn':
      return {
        rope_type: 'yarn',
        factor: scaling.factor,
        original_max_position_embeddings: scaling.originalContextLength,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        ...(scaling.attentionFactor === undefined ? {} : { attention_factor: scaling.attentionFactor }),
        ...(scaling.truncate === false ? { truncate: false } : {}),
      }
    case 'factors':
    case 'frequencies':
      return undefined
  }
}
