/** Which protocol fits what is compared, and how much of a text it takes when nobody says. */
import type { KVCompressor } from '@kvloom/core'
import type { Model } from '@kvloom/engine'
import { EvalOptionError } from '../errors'
import { type Plan, protocolE, protocolP, protocolW } from '../run/plan'

export type ProtocolName = Plan['protocol']

/** Sizes that keep a comparison of ten rows within minutes on two cores; the tiny model reads bytes, so it gets more tokens. */
const SIZES = {
  tiny: { tokens: { P: 1024, E: 960, W: 1024 }, passkeyTrials: 5, passkeyTokens: 1000 },
  real: { tokens: { P: 768, E: 768, W: 768 }, passkeyTrials: 3, passkeyTokens: 300 },
} as const

export const sizesFor = (model: Model): (typeof SIZES)[keyof typeof SIZES] =>
  model.origin?.source === 'tiny' ? SIZES.tiny : SIZES.real

/** E as soon as something acts at the end of a prompt, W when every row is read as it is stored, else P. */
export function protocolFor(compressors: readonly KVCompressor[]): ProtocolName {
  if (compressors.some((c) => c.stages.some((s) => s.when === 'promptEnd'))) return 'E'
  const changing = compressors.filter((c) => c.stages.length > 0)
  return changing.length > 0 && changing.every((c) => c.ownRows === 'stored') ? 'W' : 'P'
}

export interface PlanWish {
  /** Tokens per step; see the protocols. */
  readonly chunk?: number
  /** Protocols E and W: tokens of the prompt. */
  readonly promptTokens?: number
  /** Protocols P and W: first token that is scored. */
  readonly scoreFrom?: number
}

/** @throws EvalOptionError for a setting that belongs to another protocol, or is out of its range */
export function planFor(protocol: ProtocolName, tokens: number, { chunk, promptTokens, scoreFrom }: PlanWish): Plan {
  const step = chunk === undefined ? {} : { chunk }
  const prompt = promptTokens === undefined ? {} : { promptTokens }
  const score = scoreFrom === undefined ? {} : { scoreFrom }
  if (protocol === 'E') {
    if (scoreFrom !== undefined) throw foreign('scoreFrom', scoreFrom, 'E', 'it scores what follows promptTokens')
    return protocolE({ tokens, ...prompt, ...step })
  }
  if (protocol === 'W') return protocolW({ tokens, ...score, ...step, ...prompt })
  if (promptTokens !== undefined) throw foreign('promptTokens', promptTokens, 'P', 'it scores from scoreFrom on')
  return protocolP({ tokens, ...score, ...step })
}

const foreign = (option: string, given: number, protocol: string, why: string): EvalOptionError =>
  new EvalOptionError(option, given, `nothing under protocol ${protocol}: ${why}`, 'Leave it out.')
