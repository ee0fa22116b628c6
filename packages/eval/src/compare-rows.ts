/**
 * compareRows(): every row is checked against the model, then one uncompressed run and every composition over the same tokens,
 * then the times of all rows side by side. Each finished composition is in the report file at once; an error stays in its
 * row; an interruption keeps what is done.
 */
import { createHash } from 'node:crypto'
import { EvalOptionError } from './errors'
import { describeComposition, describeMachine, describeVersions } from './report/describe'
import { type Report, SCHEMA_VERSION } from './report/schema'
import { Comparison, UNCOMPRESSED } from './run/comparison'
import type { CompareRowsOptions } from './run/options'
import { trialTokens } from './run/passkey'
import { type TimingPlan, timingPlan, timingTokens } from './run/timing'

/**
 * Runs the comparison.
 * @returns the report; its status is `interrupted` when the signal was aborted, rows that failed carry their error
 * @throws EvalOptionError for settings that cannot work, ReportError when the file cannot be written, and what the uncompressed run throws
 */
export async function compareRows(options: CompareRowsOptions): Promise<Report> {
  checkOptions(options)
  const timing = timingPlan(options.plan, options.decodeTokens ?? DECODE_TOKENS)
  const run = new Comparison(options, await openReport(options, timing), timing)
  return run.run()
}

/** Decode steps that are timed when nobody says. */
const DECODE_TOKENS = 16

function checkOptions({ model, plan, ids, compositions, decodeTokens = DECODE_TOKENS }: CompareRowsOptions): void {
  if (compositions.length === 0) throw new EvalOptionError('compositions', 0, 'at least one', 'Name a composition.')
  if (!Number.isInteger(decodeTokens) || decodeTokens < 0)
    throw new EvalOptionError('decodeTokens', decodeTokens, 'a whole number from 0', '0 times nothing.')
  if (ids.length < plan.tokens)
    throw new EvalOptionError(
      'tokens',
      plan.tokens,
      `at most ${ids.length}, the length of the text`,
      'Give a longer text or ask for fewer tokens.',
    )
  const { contextLength } = model.shape
  const timed = timingTokens(timingPlan(plan, decodeTokens))
  if (Math.max(plan.tokens, timed) > contextLength)
    throw new EvalOptionError(
      'tokens',
      timed > plan.tokens ? `${plan.tokens} (and ${timed - plan.tokens} to time decoding)` : plan.tokens,
      `${timed > plan.tokens ? 'together ' : ''}at most ${contextLength}, the model's context`,
      'Ask for fewer tokens.',
    )
}

async function openReport(options: CompareRowsOptions, timing: TimingPlan | null): Promise<Report> {
  const { model, plan, passkeyTrials = [] } = options
  const { shape } = model
  const used = options.ids.slice(0, plan.tokens)
  return {
    kind: 'kvloom-report',
    schemaVersion: SCHEMA_VERSION,
    status: 'running',
    startedAt: new Date().toISOString(),
    finishedAt: null,
    seed: options.seed ?? 0,
    versions: await describeVersions(),
    machine: describeMachine(options.backend),
    model: {
      name: options.modelName ?? shape.name,
      fingerprint: shape.fingerprint,
      layers: shape.layers,
      queryHeads: shape.queryHeads,
      kvHeads: shape.kvHeads,
      keyDim: shape.keyDim,
      valueDim: shape.valueDim,
      contextLength: shape.contextLength,
      vocabSize: model.config.vocabSize,
    },
    text: {
      name: options.textName,
      tokens: plan.tokens,
      sha256: createHash('sha256').update(new Uint8Array(used.buffer)).digest('hex'),
    },
    protocol: {
      name: plan.protocol,
      tokens: plan.tokens,
      chunk: plan.chunk,
      promptTokens: plan.promptTokens,
      scoredTargets: { ...plan.targets },
      comparedRows: { ...plan.rows },
      decodeTokens: timing?.rounds ?? 0,
      timing: timing && {
        contextTokens: timing.contextTokens,
        warmUpRounds: timing.warmUpRounds,
        rounds: timing.rounds,
        groups: 0,
      },
      attentionPositions: options.attentionPositions ?? 64,
      passkeyTrials: passkeyTrials.length,
      passkeyTokens: Math.max(0, ...passkeyTrials.map(trialTokens)),
    },
    baseline: describeComposition('uncompressed f32', UNCOMPRESSED),
    compositions: options.compositions.map((c) => describeComposition(c.name, c.compressor)),
  }
}
