// Help for tests: the toys of fixtures/families, whose weights follow from their names (tools/engine-fixtures/toys.py makes the same
// numbers), as folders in memory and as GGUF files, with the logits that other software computes for them.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { bytesSource, type FileFolder } from '../files/byte-source'
import { readSafetensors } from '../files/safetensors'
import { encodeSafetensors, type TensorToWrite } from '../files/safetensors-write'

/** A toy as fixtures describe it. */
export interface Toy {
  readonly name: string
  /** config.json */
  readonly config: Readonly<Record<string, unknown>>
  /** Shapes of tensors by name, by file. */
  readonly files: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>
  /** Tokens until a layer first does not see all. */
  readonly contextLength: number
  /** The tokens that follow the text; absent where the text is longer than `contextLength`. */
  readonly greedy?: readonly number[]
}

const fixture = (name: string): string => fileURLToPath(new URL(`../../fixtures/families/${name}`, import.meta.url))

/** What a fixture lists, and the logits `[tokens, vocab]` of each case by its name. */
export async function toyFixture<Case>(
  name: 'transformers' | 'llama-cpp',
): Promise<{ tokens: number; cases: readonly Case[]; logits: (name: string) => Float32Array }> {
  const listed = JSON.parse(readFileSync(fixture(`${name}.json`), 'utf8')) as { tokens: number; cases: Case[] }
  const tensors = await readSafetensors(
    bytesSource(new Uint8Array(readFileSync(fixture(`${name}.safetensors`))), `${name}.safetensors`),
  )
  return { ...listed, logits: (each) => tensors.get(each)?.data as Float32Array }
}

/** The text of every toy. */
export const toyIds = (tokens: number, vocab: number): Int32Array =>
  Int32Array.from({ length: tokens }, (_, i) => (i * 37 + 5) % vocab)

/** The values of a tensor, as `values` in toys.py. */
export function toyValues(name: string, shape: readonly number[]): Float32Array {
  const seed = fnv1a(name)
  const base = name.includes('norm') ? 1 : 0
  const spread = shape.length === 2 ? Math.sqrt(6 / (shape[1] ?? 1)) : 0.3
  const size = shape.reduce((product, each) => product * each, 1)
  return Float32Array.from({ length: size }, (_, i) => {
    let h = (Math.imul(i, 0x9e3779b9) + seed) >>> 0
    h ^= h >>> 16
    h = Math.imul(h, 0x85ebca6b)
    h ^= h >>> 13
    h = Math.imul(h, 0xc2b2ae35)
    h ^= h >>> 16
    return base + spread * ((h >>> 8) / 2 ** 23 - 1)
  })
}

function fnv1a(text: string): number {
  let value = 0x811c9dc5
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193)
  return value >>> 0
}

/** What a test may change of a toy. */
export interface ToyChanges {
  /** Settings of config.json; undefined takes one away. */
  readonly config?: Readonly<Record<string, unknown>>
  /** Shapes of tensors to add. */
  readonly add?: Readonly<Record<string, readonly number[]>>
  /** Tensors to leave out. */
  readonly without?: readonly string[]
}

/** The folder of a toy, in memory. */
export function toyFolder(toy: Toy, changes: ToyChanges = {}): FileFolder {
  const files = new Map<string, Uint8Array>()
  const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
  files.set('config.json', json({ ...toy.config, ...changes.config }))
  const weightMap: Record<string, string> = {}
  const names = Object.keys(toy.files)
  // The names of a base model lack the prefix; its weights are those of the whole model.
  const base = Object.values(toy.files).some((shapes) => 'embed_tokens.weight' in shapes)
  for (const [file, shapes] of Object.entries(toy.files)) {
    const tensors: Record<string, TensorToWrite> = {}
    const all = file === names[0] ? { ...shapes, ...changes.add } : shapes
    for (const [name, shape] of Object.entries(all)) {
      if (changes.without?.includes(name)) continue
      tensors[name] = { shape, data: toyValues(base ? `model.${name}` : name, shape) }
      weightMap[name] = file
    }
    files.set(file, encodeSafetensors(tensors))
  }
  if (names.length > 1) files.set('model.safetensors.index.json', json({ weight_map: weightMap }))
  return {
    name: toy.name,
    async open(file) {
      const bytes = files.get(file)
      return bytes && bytesSource(bytes, file)
    },
  }
}
