/** Checks a layer whose stages are bound: what they ask to see, what they declared, and what depends on the model's numbers or on what a fit chose. */
import { actsOn, foldSpaces, stagesOn } from '../compose'
import { type Kind, type KVCompressor, type Needs, SEALING } from '../contract'
import { IncompatibleStages, UnsupportedStage } from '../errors'
import type { LaneShape } from './lane'
import { OBSERVED } from './observe'

/** @throws UnsupportedStage for an observation that does not exist, before anything runs */
export function checkNeeds(id: string, needs: Needs): void {
  for (const [name, what] of Object.entries(needs))
    if (!OBSERVED.includes(what?.of))
      throw new UnsupportedStage(
        id,
        `it asks to see ${name} as ${JSON.stringify(what)}; there are { of: ${OBSERVED.map((of) => `'${of}'`).join(' | ')} }.`,
      )
}

/** Checks what depends on the model's numbers or on what a fit chose: rows that merge all heads, and layers that keep no rows of their own. */
export function checkCodecs(
  compressor: KVCompressor,
  layer: number,
  lanes: readonly LaneShape[],
  sources: readonly number[],
): void {
  const acting = compressor.stages.filter((s) => actsOn(s, layer))
  for (const part of ['keys', 'values'] as const) {
    const codec = lanes[0]?.[part === 'keys' ? 'keyCodec' : 'valueCodec']
    if (!codec) continue
    const of = (kind: Kind) => stagesOn(compressor, kind, layer, part)[0]
    const { quantizer, layers } = codec.parts
    const stage = of('quantize')
    if (quantizer && stage) {
      checkDeclared(stage.id, 'rowsPerGroup', stage.facts?.rowsPerGroup ?? 1, quantizer.rowsPerGroup)
      const spaces = foldSpaces(acting, part)
      const before = spaces[spaces.findIndex((step) => step.stage === stage) - 1]
      if (quantizer.mergedHeads && before?.space.tokenSets === 'head')
        throw new IncompatibleStages(
          before.stage.id,
          stage.id,
          `${stage.id} makes one row of all heads of a token, and after ${before.stage.id} each head keeps its own tokens.`,
          'Use a group that divides the head dimension, or one set of tokens per layer (tova, streaming-llm).',
        )
    }
    const transform = of('transform')?.id ?? 'a transform'
    for (const kind of SEALING)
      for (const l of layers) {
        const [there] = stagesOn(compressor, kind, l, part)
        const here = of(kind)
        if (there?.id !== here?.id || JSON.stringify(there?.options) !== JSON.stringify(here?.options))
          throw new IncompatibleStages(
            kind === 'transform' ? null : transform,
            (here ?? there)?.id ?? kind,
            `${transform} joins layers ${layers.join(' and ')}, and ${(here ?? there)?.id} acts on layer ${here ? layer : l} only.`,
            'Give it all layers of a group, or none: onLayers([2, 3], ...).',
          )
      }
    for (const l of layers)
      if (sources[l] !== l)
        throw new IncompatibleStages(
          acting.find((s) => s.kind === 'model')?.id ?? 'the model',
          transform,
          `${transform} joins layers ${layers.join(' and ')}, and layer ${l} keeps no rows of its own.`,
          'Share other layers, or give them different layers with onLayers().',
        )
  }
}

/** @throws UnsupportedStage when a bound stage is not what its stage declared, since `compose()` went by the declaration */
export function checkDeclared(id: string, name: string, declared: unknown, bound: unknown): void {
  if (declared !== bound)
    throw new UnsupportedStage(
      id,
      `its facts declare ${name} ${String(declared)}, and it is bound with ${String(bound)}. Declare what it binds (defineQuantizer: ${name}; by hand: facts of the stage).`,
    )
}
