/** One choice of tokens for many: any scorer made to choose for a whole layer, or for the whole model. */

import { narrower } from './accept'
import { checkCompressor } from './arguments'
import { compose } from './compose'
import { type AnyStage, DROPPING, type KVCompressor, type Space } from './contract'
import { IncompatibleStages, OptionError } from './errors'

/**
 * Makes a scorer choose one set of tokens: for all heads of a layer (`layer`: by the mean of their scores), or for all layers of the model
 * (`model`: by the mean over layers too, chosen when all have attended). The first lets it stand before stages that merge the heads of a
 * token, the second before stages that join layers: AQUA-KV, LoRC, MiniCache.
 *
 *   compose(sharedTokens('model', snapkv({ keep: 0.5 })), aquaKv({ bits: 2 }))
 *
 * @throws OptionError for another scope; IncompatibleStages when nothing scores, or when a stage leaves heads with different numbers of tokens
 */
export function sharedTokens(scope: 'layer' | 'model', compressor: KVCompressor): KVCompressor {
  if (scope !== 'layer' && scope !== 'model') throw new OptionError('sharedTokens', 'scope', scope, '"layer", "model"')
  checkCompressor('sharedTokens', compressor)
  const { stages, card } = compressor
  if (!stages.some(({ kind }) => kind === 'score'))
    throw new IncompatibleStages(null, card.name, 'it has no scorer whose choice could be shared.', {
      kind: 'wrap',
      why: 'give it a scorer',
      combinator: 'sharedTokens',
      args: [scope],
      around: 'snapkv',
    })
  return compose({
    ...compressor,
    card: { ...card, name: `${card.name}@shared[${scope}]` },
    stages: stages.map((stage) => (DROPPING.includes(stage.kind) ? shared(stage, scope) : stage)),
  })
}

const shared = (stage: AnyStage, scope: 'layer' | 'model'): AnyStage =>
  ({
    ...stage,
    ...(stage.kind === 'score' ? { tokenSets: scope } : {}),
    accepts: (space: Space, earlier: string): Space => ({
      ...stage.accepts(space, earlier),
      tokenSets: narrower(space.tokenSets, scope),
    }),
  }) as AnyStage
