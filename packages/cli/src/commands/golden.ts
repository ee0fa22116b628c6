/** `kvloom golden PATH…`: the methods against reference data; the last line is `N passed, N failed`. */
import { adaKv } from '@kvloom/ada-kv'
import { aquaKv } from '@kvloom/aqua-kv'
import { blockFormats } from '@kvloom/block-formats'
import { clusterCount, clusterKeys, clusterkv, clustersNeeded, hitRate, rankClusters } from '@kvloom/clusterkv'
import { formatGolden, type GoldenResult, runGolden, summarizeGolden } from '@kvloom/conformance'
import { lloyd as coupledLloyd, coupledQuantization } from '@kvloom/coupled-quantization'
import { useBackend } from '@kvloom/engine'
import { expectedAttention, futureQueries } from '@kvloom/expected-attention'
import {
  attentionSums,
  choosePolicy,
  fastgen,
  keepMask,
  marksOf,
  meanAttention,
  policiesOf,
  profiledWidths,
  recoveryOf,
  upkeep,
} from '@kvloom/fastgen'
import { freqkv, lowPass } from '@kvloom/freqkv'
import { higgs, higgsQuantizer } from '@kvloom/higgs'
import { kivi } from '@kvloom/kivi'
import { kvLatent } from '@kvloom/kv-latent'
import { layerDistances, rankPairs, searchSharing } from '@kvloom/kvsharer'
import { attentionLoss, l2Norm } from '@kvloom/l2-norm'
import { linearPredictor } from '@kvloom/linear-predictor'
import { lorc, progressiveRanks } from '@kvloom/lorc'
import { angleBetween, minicache } from '@kvloom/minicache'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { channelScores, think } from '@kvloom/think'
import { tova } from '@kvloom/tova'
import { EXIT, UsageError } from '../errors'
import { backendOf } from '../models'
import { interruptible } from '../terminal/interrupt'

const METHODS = {
  coupledQuantization,
  coupledLloyd,
  aquaKv,
  higgs,
  higgsQuantizer,
  linearPredictor,
  fastgenSteps: {
    attentionSums,
    choosePolicy,
    fastgen,
    policiesOf,
    keepMask,
    marksOf,
    meanAttention,
    profiledWidths,
    recoveryOf,
    upkeep,
  },
  clusterkvSteps: { clusterkv, clusterCount, clusterKeys, clustersNeeded, hitRate, rankClusters },
  lorc,
  progressiveRanks,
  think,
  channelScores,
  adaKv,
  blockFormats,
  expectedAttention,
  futureQueries,
  kvLatent,
  kvsharer: { layerDistances, rankPairs, searchSharing },
  kivi,
  freqkv,
  lowPass,
  l2Norm,
  minicache,
  angleBetween,
  snapkv,
  streamingLlm,
  tova,
  attentionLoss,
}

export interface GoldenFlags {
  readonly only?: readonly string[]
  readonly backend: string
}

/** @returns the exit code: 1 for a miss, an unknown case, or when nothing was run. */
export async function goldenCommand(paths: readonly string[], flags: GoldenFlags): Promise<number> {
  const backend = backendOf(flags.backend)
  const only = (flags.only ?? [])
    .flatMap((each) => each.split(','))
    .map((each) => each.trim())
    .filter((each) => each !== '')
  // Starts wasm with one thread, as the engine runs it.
  await useBackend(backend)
  return interruptible(async (signal) => {
    const results: GoldenResult[] = []
    for await (const result of runGolden(paths, { methods: METHODS, backend, only })) {
      results.push(result)
      process.stdout.write(`${formatGolden(result)}\n`)
      await new Promise((resolve) => setTimeout(resolve, 0))
      if (signal.aborted) break
    }
    process.stdout.write(`${summarizeGolden(results)}\n`)
    if (signal.aborted) return EXIT.interrupted
    if (results.length === 0)
      throw new UsageError(
        only.length > 0 ? `no case begins with ${only.join(' or ')}.` : `no golden data in ${paths.join(', ')}.`,
      )
    return results.every((r) => r.status === 'passed') ? EXIT.ok : EXIT.failure
  })
}
