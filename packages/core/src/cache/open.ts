/** Opens caches: binds a compressor's stages to every layer of a model, over empty layers. */
import { checkCompressor, type ModelOrShape, shapeGiven } from '../arguments'
import { checkArtifacts, ready as pairWithArtifacts } from '../artifacts'
import type { KVCache, KVCompressor, ModelShape, Ready } from '../contract'
import { ModelMismatch } from '../errors'
import { Account } from './account'
import { Cache } from './cache'
import { LayerCache } from './layer'
import { planLayer, sourceLayers } from './plan'
import { TablePool } from './pool'

/**
 * Opens an empty cache for a model. Whether a layer has one lane or one per head is decided here. A compressor that needs no calibration
 * may be given as it is; one that does is paired with its artifacts by `ready()` or `calibrate()`.
 * @param given a loaded model, or its shape
 * @throws OptionError for anything else; NotCalibrated, ModelMismatch, IncompatibleStages, UnsupportedStage, WindowError, ArtifactMismatch
 */
export function openCache(given: ModelOrShape, compressor: Ready | KVCompressor): KVCache {
  const model = shapeGiven('openCache', given)
  const ready = readyGiven('openCache', compressor)
  checkArtifacts(model, ready)
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  return new Cache(model, ready, { layers, pool, account, tokens: [] })
}

/** @throws OptionError for anything but a compressor, with or without its artifacts; NotCalibrated */
export function readyGiven(where: string, given: Ready | KVCompressor): Ready {
  if (isReady(given)) return given
  checkCompressor(where, given)
  return pairWithArtifacts(given)
}

const isReady = (given: Ready | KVCompressor): given is Ready =>
  typeof given === 'object' && given !== null && 'ready' in given && given.ready

/** Makes empty layers and binds the stages to them. */
export function openLayers(model: ModelShape, ready: Ready, account: Account) {
  const pool = new TablePool()
  try {
    checkNamedLayers(model, ready.compressor)
    const sources = sourceLayers(model, ready)
    const plans = sources.map((_, layer) => planLayer(model, ready, layer, sources, pool.hold))
    account.add(pool.bytes)
    return { layers: plans.map((plan) => new LayerCache(plan, account)), pool }
  } catch (error) {
    pool.release()
    throw error
  }
}

/** @throws ModelMismatch for a stage that is to act on layers which the model does not have */
function checkNamedLayers({ name, layers }: ModelShape, { stages }: KVCompressor): void {
  for (const { id, on } of stages)
    for (const layer of on?.layers ?? [])
      if (layer >= layers)
        throw new ModelMismatch(id, `it is to act on layer ${layer}, and ${name} has the layers 0 to ${layers - 1}.`, {
          kind: 'wrap',
          why: 'name layers that the model has',
          combinator: 'onLayers',
          args: [[0]],
          around: null,
        })
}
