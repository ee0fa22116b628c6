// The composition matrix: every pair of methods, mixes of three and the named mixes, run on the tiny model. Writes docs/matrix.md and
// results/matrix.json. Whatever is not refused must run: 150 tokens of prompt and 40 decoded ones, with a ledger that equals the
// growth of tf.memory().numBytes after every step, and everything given back at the end.
//
//   node dist/matrix.js [--only snapkv,kivi] (cases that contain all of the names; the page is then not written)
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type KVCompressor, KvloomError, openCache, ready } from '@kvloom/core'
import { loadModel, resolveModel } from '@kvloom/engine'
import { checkComposition, footprintOf, prepareComposition } from '@kvloom/eval'
import { memory } from '@tensorflow/tfjs-core'
import { measureFlags } from './command-line'
import {
  ABOUT_WINDOWS,
  allCases,
  candidates,
  composeText,
  keyOf,
  methodNames,
  NAMED,
  sentence,
  THREES,
} from './matrix-cases'
import { here } from './measurements'
import { bits } from './page'

const PROMPT = 150
const DECODED = 40
const CHUNK = 64
/** What learns something learns it on so much of the calibration text: enough to run, not to judge quality by. */
const CALIBRATION = { sequences: 2, tokens: 256 }

type Place = 'compose' | 'model'

interface Case {
  readonly methods: readonly string[]
  readonly composition: string
  readonly outcome: 'runs' | 'refused' | 'broken'
  /** Why it is refused or broken. */
  readonly why: string | null
  /** Where it is refused: when composed, or when it meets the model and before anything is fitted. */
  readonly at: Place | null
  /** Where each of the forms that were tried is refused, when all of them are. */
  readonly forms?: readonly Place[]
  readonly theoreticalBits: number | null
  readonly keptFraction: number | null
}

/** A composition that the model refuses before anything is fitted. */
class Refusal extends Error {
  constructor(cause: KvloomError) {
    super(cause.message, { cause })
  }
}

const NAMED_KEYS = new Set(NAMED.map(keyOf))

const { only } = measureFlags()
const cases = allCases().filter((names) => only.every((part) => names.some((name) => name.includes(part))))
const { path } = await resolveModel('tiny', { sources: ['tiny'] })
const model = await loadModel(path, { backend: 'wasm' })
const text = await readFile(join(path, '..', 'text', 'sample.txt'), 'utf8')
const ids = model.tokenizer.encodeFirst(text, PROMPT + DECODED, { special: false })
const cacheDir = await mkdtemp(join(tmpdir(), 'kvloom-matrix-'))
const results: Case[] = []
const leaks: string[] = []
try {
  for (const [i, names] of cases.entries()) {
    process.stderr.write(`\r${`${i + 1}/${cases.length} ${names.join(' + ')}`.padEnd(100)}`)
    results.push(await runCase(names))
  }
} finally {
  model.dispose()
  await rm(cacheDir, { recursive: true, force: true })
  process.stderr.write('\n')
}

/** The first candidate that runs; else the refusal of the first one that is about more than windows. */
async function runCase(names: readonly string[]): Promise<Case> {
  const refusals: Case[] = []
  for (const composition of candidates(names)) {
    const outcome = await tryOne(names, composition)
    if (outcome.outcome !== 'refused') return outcome
    refusals.push(outcome)
  }
  const told = refusals.find(({ why }) => !ABOUT_WINDOWS.test(why ?? '')) ?? refusals[0]
  if (!told) throw new Error(`${names.join(' + ')} has no candidate`)
  return { ...told, forms: refusals.map(({ at }) => at ?? 'model') }
}

async function tryOne(names: readonly string[], composition: string): Promise<Case> {
  const base = { methods: names, composition, theoreticalBits: null, keptFraction: null }
  const composed = composeText(composition)
  if ('refused' in composed) return { ...base, outcome: 'refused', why: composed.refused, at: 'compose' }
  const before = memory().numBytes
  try {
    return { ...base, outcome: 'runs', why: null, at: null, ...(await run(composed.compressor)) }
  } catch (error) {
    const why = error instanceof Error ? sentence(error.message) : String(error)
    // What is refused after its calibration was let through before it: that is a defect too.
    if (error instanceof Refusal) return { ...base, outcome: 'refused', why, at: 'model' }
    return { ...base, outcome: 'broken', why, at: null }
  } finally {
    const left = memory().numBytes - before
    if (left !== 0) leaks.push(`${composition} leaves ${left} bytes behind`)
  }
}

async function run(compressor: KVCompressor): Promise<Pick<Case, 'theoreticalBits' | 'keptFraction'>> {
  const { cache, changed, dispose } = await open(compressor)
  const opened = memory().numBytes - cache.bytes().total
  try {
    for (let at = 0; at < ids.length; ) {
      const prompt = at < PROMPT
      const wanted = prompt ? Math.min(CHUNK, PROMPT - at) : 1
      const n = Math.min(wanted, cache.chunkLimit)
      const phase = !prompt ? 'decode' : at + n === PROMPT ? 'promptEnd' : 'prompt'
      const logits = await changed.forward(cache, ids.subarray(at, at + n), phase)
      at += n
      const values = (await logits?.data()) ?? []
      logits?.dispose()
      if (!values.every((v) => Number.isFinite(v))) throw new Error(`logits after ${at} tokens are not finite`)
      const [held, counted] = [memory().numBytes - opened, cache.bytes().total]
      if (held !== counted) throw new Error(`after ${at} tokens ${held} bytes are held and ${counted} are counted`)
    }
    const { theoreticalBits, keptFraction } = footprintOf(cache, model.shape)
    return { theoreticalBits, keptFraction }
  } finally {
    cache.dispose()
    dispose()
  }
}

async function open(compressor: KVCompressor) {
  try {
    checkComposition(model, compressor)
  } catch (error) {
    // What kernels and maths refuse is a defect above them, not a refusal of the composition.
    if (error instanceof KvloomError && !/^(?:KERNEL_|MATH$)/.test(error.code)) throw new Refusal(error)
    throw error
  }
  const {
    model: changed,
    artifacts,
    dispose,
  } = await prepareComposition({
    model,
    compressor,
    data: CALIBRATION,
    cacheDir,
  })
  try {
    return { cache: openCache(changed.shape, ready(compressor, artifacts)), changed, dispose }
  } catch (error) {
    dispose()
    throw error
  }
}

for (const leak of leaks) process.stdout.write(`${leak}\n`)
const broken = results.filter((c) => c.outcome === 'broken')
for (const { composition, why } of broken) process.stdout.write(`broken: ${composition}: ${why}\n`)
const counts = (outcome: Case['outcome']): number => results.filter((c) => c.outcome === outcome).length
const places = (at: Place): number => results.filter((c) => c.at === at).length
if (only.length === 0) {
  await writeFile(
    here('results/matrix.json'),
    `${JSON.stringify({ schemaVersion: 1, prompt: PROMPT, decoded: DECODED, cases: results.map(plain) }, null, 2)}\n`,
  )
  await writeFile(new URL('../../../docs/matrix.md', import.meta.url), page().join('\n'))
} else for (const c of results) process.stdout.write(`${c.outcome}: ${c.composition}${c.why ? `: ${c.why}` : ''}\n`)
process.stdout.write(`${counts('runs')} run, ${counts('refused')} are refused, ${broken.length} are broken.\n`)
if (broken.length + leaks.length > 0) process.exitCode = 1

function page(): string[] {
  const reasons = [...new Set(results.flatMap((c) => (c.outcome === 'refused' && c.why ? [c.why] : [])))]
  const mark = ({ outcome, why }: Case): string =>
    outcome === 'runs' ? '✓' : outcome === 'refused' ? `[${reasons.indexOf(why ?? '') + 1}](#refusals)` : '✗'
  const at = (a: string, b: string): string => {
    const found = results.find(
      ({ methods }) => methods.length === (a === b ? 1 : 2) && methods.includes(a) && methods.includes(b),
    )
    return found ? mark(found) : ''
  }
  const threes = THREES.map(keyOf)
  const mixes = results.filter((c) => NAMED_KEYS.has(keyOf(c.methods)))
  return [
    '# What composes with what',
    '',
    'Every pair of methods, mixes of three, and mixes that are asked for by name, composed and run. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench matrix`; do not edit by hand.',
    '',
    `✓: it ran on the tiny model, ${PROMPT} tokens of prompt and ${DECODED} decoded ones, at sizes where windows fill and blocks are`,
    'sealed; after every step the byte ledger equalled the growth of `tf.memory().numBytes`. A number: it is refused for the reason',
    'below, also with what the refusal advises: one window for all by `window()`, a group that divides the head dimension. The diagonal',
    'is the method alone.',
    '',
    `${counts('runs')} run, ${counts('refused')} are refused${broken.length > 0 ? `, ${broken.length} are broken (✗)` : ''}: ${places('compose')} when composed,`,
    `${places('model')} when they meet the model and before anything is fitted, none after a calibration.`,
    '',
    `| | ${methodNames.map((_, i) => i + 1).join(' | ')} |`,
    `| --- | ${methodNames.map(() => ':---:').join(' | ')} |`,
    ...methodNames.map(
      (a, i) => `| ${i + 1} ${a} | ${methodNames.map((b, j) => (j > i ? '' : at(a, b))).join(' | ')} |`,
    ),
    '',
    '## Mixes of three',
    '',
    'A fixed sample of what people mix: an eviction, a transform and a quantizer; a scorer, a budget and a quantizer; and the like.',
    '',
    '| mix | outcome | bits (formula) | tokens kept |',
    '| --- | --- | ---: | ---: |',
    ...results.filter((c) => threes.includes(keyOf(c.methods))).map((c) => row(c, mark(c))),
    '',
    '## Mixes by name',
    '',
    '| mix | outcome | bits (formula) | tokens kept |',
    '| --- | --- | ---: | ---: |',
    ...mixes.map((c) => row(c, c.outcome === 'runs' ? 'runs' : `${c.outcome}: ${c.why ?? ''}`)),
    '',
    `Bits per value of every token seen, by formula, at ${PROMPT + DECODED} tokens: much of a cache this short is still exact.`,
    '',
    '## Refusals',
    '',
    ...reasons.map((why, i) => `${i + 1}. ${why}`),
    '',
    ...(broken.length > 0 ? ['## Broken', '', ...broken.map((c) => `- \`${c.composition}\`: ${c.why}`), ''] : []),
  ]
}

function row({ composition, theoreticalBits, keptFraction }: Case, outcome: string): string {
  const [size, kept] = [
    theoreticalBits === null ? '' : bits(theoreticalBits),
    keptFraction === null ? '' : `${Math.round(100 * keptFraction)} %`,
  ]
  return `| \`${composition}\` | ${outcome} | ${size} | ${kept} |`
}

/** Names in one string: one line of JSON each. */
function plain({ methods, forms, ...rest }: Case) {
  return { methods: methods.join(' + '), ...rest, ...(forms ? { forms: forms.join(' ') } : {}) }
}
