/** Checks a layer whose stages are bound: what they ask to see, what they declared, and what depends on the model's numbers or on what a fit chose. */
import { askedOf } from '../asked'
import { actsOn, foldSpaces, stagesOn } from '../compose'
import {
  type AnyStage,
  type Kind,
  type KVCompressor,
  type ModelShape,
  type Needs,
  SEALING,
  type Site,
  type Stage,
  type Transform,
} from '../contract'
import { oneSet } from '../cures'
import { IncompatibleStages, UnsupportedStage } from '../errors'
import { methodOf, nameOf } from '../fold'
import { siteOf } from '../site'
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
  model: ModelShape,
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
    const { transform: bound, quantizer, layers } = codec.parts
    const [learner] = stagesOn(compressor, 'transform', layer, part)
    if (bound && learner) checkForeseen(model, compressor, learner, siteOf(model, layer, part), bound)
    const stage = of('quantize')
    if (quantizer && stage) {
      checkDeclared(stage.id, 'rowsPerGroup', stage.facts?.rowsPerGroup ?? 1, quantizer.rowsPerGroup)
      const spaces = foldSpaces(acting, part)
      const apart = spaces.find(({ space }) => space.tokenSets === 'head')?.stage
      if (quantizer.mergedHeads && apart)
        throw new IncompatibleStages(
          nameOf(apart),
          nameOf(stage as unknown as AnyStage),
          `${stage.id} makes one row of all heads of a token, and after ${apart.id} each head keeps its own tokens.`,
          [{ kind: 'advice', text: 'use a group that divides the head dimension' }, oneSet(methodOf(apart))],
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
            {
              kind: 'wrap',
              why: 'give it all layers of a group, or none',
              combinator: 'onLayers',
              args: [[...layers]],
              around: (here ?? there)?.method ?? (here ?? there)?.id ?? null,
            },
          )
      }
    for (const l of layers)
      if (sources[l] !== l)
        throw new IncompatibleStages(
          acting.find((s) => s.kind === 'model')?.id ?? 'the model',
          transform,
          `${transform} joins layers ${layers.join(' and ')}, and layer ${l} keeps no rows of its own.`,
          [
            { kind: 'advice', text: `share other layers than ${layers.join(' and ')}` },
            {
              kind: 'wrap',
              why: 'leave those alone',
              combinator: 'exceptLayers',
              args: [[...layers]],
              around: of('transform')?.method ?? transform,
            },
          ],
        )
  }
}

/** @throws UnsupportedStage when a fitted transform is not what its fit foresaw, since stages behind it were checked against that */
function checkForeseen(
  model: ModelShape,
  compressor: KVCompressor,
  stage: Stage<'transform'>,
  site: Site,
  { main }: Transform,
): void {
  const asked = askedOf(model, compressor, stage as unknown as AnyStage)
  const foreseen = stage.fit?.foresee?.(site, asked).main
  if (foreseen && (foreseen.heads !== main.heads || main.dim % asked.channels !== 0))
    throw new UnsupportedStage(
      stage.id,
      `its latents have ${main.heads} heads of ${main.dim} channels in layer ${site.layer}, and its fit foresaw ${foreseen.heads} heads of a multiple of ${asked.channels}. Fit what was asked for.`,
    )
}

/** @throws UnsupportedStage when a bound stage is not what its stage declared, since `compose()` went by the declaration */
export function checkDeclared(id: string, name: string, declared: unknown, bound: unknown): void {
  if (declared !== bound)
    throw new UnsupportedStage(
      id,
      `its facts declare ${name} ${String(declared)}, and it is bound with ${String(bound)}. Declare what it binds (${name} of its define helper; by hand: facts of the stage).`,
    )
}
