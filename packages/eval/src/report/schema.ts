/**
 * The report's JSON: one file per run, checked whenever it is read. Later versions may add fields, never change these.
 * Version 2: times are taken side by side (`protocol.timing`), with their ratios to the uncompressed row's of the same round
 * (`times.ratios`), and may be missing where a row was measured and not timed; a row may be `skipped`. Times of version 1 were
 * taken row after row, so they cannot be compared with these.
 */
import * as z from 'zod'

export const SCHEMA_VERSION = 2

const spread = z.object({
  median: z.number(),
  lowerQuartile: z.number(),
  upperQuartile: z.number(),
  count: z.number().int(),
})

const ledger = z.object({
  payload: z.number(),
  metadata: z.number(),
  window: z.number(),
  slack: z.number(),
  state: z.number(),
  index: z.number(),
  workspace: z.number(),
  perPrompt: z.number(),
  /** Rows in host memory, beside `total`. */
  host: z.number().default(0),
  perModel: z.number(),
  total: z.number(),
  peak: z.number(),
  shared: z.number(),
})

const footprint = z.object({
  tokens: z.number().int(),
  theoreticalBits: z.number(),
  residentBits: z.number(),
  /** Missing in reports made before it was measured. */
  liveBits: z.number().nullable().default(null),
  keptFraction: z.number(),
  ledger,
})

const passkey = z.object({
  trials: z.number().int(),
  hits: z.number().int(),
  accuracy: z.number(),
  meanLogProbability: z.number(),
  contextTokens: z.number().int(),
})

const result = z.object({
  quality: z.object({
    perplexity: z.number(),
    perplexityWithoutFirst: z.number().nullable(),
    meanKld: z.number(),
    kld99: z.number(),
    top1: z.number(),
    attentionError: z.array(z.number()),
  }),
  passkey: passkey.nullable(),
  footprint,
  footprintAtEnd: footprint,
  bytesOverTokens: z.array(z.object({ tokens: z.number().int(), total: z.number() })),
  times: z.object({
    /** Milliseconds per token of a piece of a prompt. */
    prefill: spread.nullable(),
    /** Milliseconds of a decode step of one token. */
    decode: spread.nullable(),
    /** Share of these times spent inside the cache. */
    cacheShare: z.number().nullable(),
    /** Time over the uncompressed row's of the same round. */
    ratios: z.object({ prefill: spread.nullable(), decode: spread.nullable() }),
  }),
  /** Median of the ratios, minus 1; null where one of the times was not taken. */
  overhead: z.object({ prefill: z.number().nullable(), decode: z.number().nullable() }),
  longestStep: z.number().int(),
})

const stage = z.object({
  kind: z.string(),
  id: z.string(),
  when: z.union([z.string(), z.object({ everyTokens: z.number() })]),
  options: z.json(),
  part: z.enum(['keys', 'values']).nullable(),
  layers: z.array(z.number().int()).nullable(),
  /** Layers it leaves out. */
  except: z.array(z.number().int()).nullable().default(null),
})

/** `null` stands for "unlimited", which JSON cannot say. */
const window = z.object({ recent: z.number().nullable(), block: z.number(), drain: z.string() })

const composition = z.object({
  name: z.string(),
  store: z.string(),
  ownRows: z.enum(['exact', 'stored']).default('exact'),
  stages: z.array(stage),
  window: z.object({ sinks: z.number(), keys: window, values: window }).nullable(),
  /** `skipped`: the uncompressed run, when no row could run at all. */
  status: z.enum(['pending', 'running', 'done', 'failed', 'interrupted', 'skipped']),
  result: result.nullable(),
  error: z.object({ name: z.string(), code: z.string().nullable(), message: z.string() }).nullable(),
  notes: z.array(z.string()),
  /** What its fitted stages ran with. */
  artifacts: z.array(z.object({ stage: z.string(), fingerprint: z.string() })).default([]),
})

export const reportSchema = z.object({
  kind: z.literal('kvloom-report'),
  schemaVersion: z.literal(SCHEMA_VERSION),
  /** `failed`: the uncompressed run failed, so nothing could be compared. */
  status: z.enum(['running', 'complete', 'interrupted', 'failed']),
  startedAt: z.iso.datetime(),
  finishedAt: z.iso.datetime().nullable(),
  seed: z.number().int(),
  versions: z.record(z.string(), z.string()),
  machine: z.object({
    cpu: z.string(),
    cores: z.number().int(),
    memoryGiB: z.number(),
    platform: z.string(),
    architecture: z.string(),
    node: z.string(),
    backend: z.string(),
  }),
  model: z.object({
    name: z.string(),
    fingerprint: z.string(),
    layers: z.number().int(),
    queryHeads: z.number().int(),
    kvHeads: z.number().int(),
    keyDim: z.number().int(),
    valueDim: z.number().int(),
    contextLength: z.number().int(),
    vocabSize: z.number().int(),
  }),
  text: z.object({ name: z.string(), tokens: z.number().int(), sha256: z.string() }),
  protocol: z.object({
    name: z.enum(['P', 'E', 'W']),
    tokens: z.number().int(),
    chunk: z.number().int(),
    promptTokens: z.number().int(),
    scoredTargets: z.object({ from: z.number().int(), to: z.number().int() }),
    comparedRows: z.object({ from: z.number().int(), to: z.number().int() }),
    /** Decode steps per row that count; 0 when nothing was timed. */
    decodeTokens: z.number().int(),
    /** How times were taken: rounds over all rows of a group, behind a context of so many tokens; null when they were not. */
    timing: z
      .object({
        contextTokens: z.number().int(),
        warmUpRounds: z.number().int(),
        rounds: z.number().int(),
        /** Groups of rows timed side by side so far; more than one where their caches did not fit into memory together. */
        groups: z.number().int(),
      })
      .nullable(),
    attentionPositions: z.number().int(),
    passkeyTrials: z.number().int(),
    passkeyTokens: z.number().int(),
  }),
  baseline: composition,
  compositions: z.array(composition),
})

export type Report = z.infer<typeof reportSchema>
export type CompositionReport = z.infer<typeof composition>
export type ResultReport = z.infer<typeof result>
