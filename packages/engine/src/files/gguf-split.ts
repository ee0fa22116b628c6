// A model in several GGUF files, as llama.cpp's gguf-split writes it (src/llama-model-loader.cpp, llama_split_path): parts are called
// NAME-00001-of-00003.gguf, the first one has the metadata, each says its number and how many there are (split.no, split.count).
import { refuseFile as fail } from '../errors'
import { fileSource } from './byte-source'
import { type GgufFile, type GgufTensor, openGguf } from './gguf'

/** Which part a file is, counted from 0, and of how many; undefined for a model in one file. */
export function partOf({ metadata }: GgufFile): { readonly number: number; readonly count: number } | undefined {
  const [number, count] = [metadata.get('split.no'), metadata.get('split.count')]
  return typeof count === 'number' && count > 1 ? { number: typeof number === 'number' ? number : 0, count } : undefined
}

/** The file itself where it is a whole model. @throws ModelFileError for a part, whose neighbours cannot be found from it */
export function refusePart(name: string, gguf: GgufFile): GgufFile {
  const part = partOf(gguf)
  if (!part) return gguf
  return fail(
    'FILE_MISSING',
    `${name}, part ${part.number + 1} of a model in ${part.count} GGUF files`,
    'a GGUF file with all of its tensors',
    'Give the path of one part with the others beside it, or merge them with llama.cpp (gguf-split --merge).',
  )
}

/** All parts of the model that this one belongs to, as one file. @throws ModelFileError when a part is missing or of another model */
export async function openSplitGguf(path: string, given: GgufFile): Promise<GgufFile> {
  const { number, count } = partOf(given) ?? { number: 0, count: 1 }
  const suffix = (at: number): string => `-${padded(at + 1)}-of-${padded(count)}.gguf`
  if (!path.endsWith(suffix(number)))
    fail(
      'FILE_MISSING',
      `${path}, part ${number + 1} of a model in ${count} GGUF files, under another name`,
      `a name that ends in ${suffix(number)}`,
      'Give the parts their names back, or merge them with llama.cpp (gguf-split --merge).',
    )
  const stem = path.slice(0, -suffix(number).length)
  const parts: GgufFile[] = []
  for (let at = 0; at < count; at++)
    parts.push(at === number ? given : await openPart(stem + suffix(at), at, count, path))
  const tensors = new Map<string, GgufTensor>()
  const owners = new Map<string, GgufFile>()
  for (const part of parts)
    for (const [name, tensor] of part.tensors) {
      if (tensors.has(name))
        fail('DUPLICATE_TENSOR', `the parts of ${path}, tensor "${name}" twice`, 'each tensor once')
      tensors.set(name, tensor)
      owners.set(name, part)
    }
  return {
    version: given.version,
    metadata: parts[0]?.metadata ?? given.metadata,
    tensors,
    read: (name) => (owners.get(name) ?? given).read(name),
  }
}

const padded = (value: number): string => String(value).padStart(5, '0')

async function openPart(path: string, number: number, count: number, given: string): Promise<GgufFile> {
  const source = await fileSource(path).catch(() =>
    fail(
      'FILE_MISSING',
      `${given} without ${path}, part ${number + 1} of ${count}`,
      'all parts of a model beside each other',
      'Fetch the missing part.',
    ),
  )
  const gguf = await openGguf(source)
  const part = partOf(gguf)
  if (part?.number !== number || part.count !== count)
    fail(
      'BAD_METADATA',
      `${path}, which says it is ${part ? `part ${part.number + 1} of ${part.count}` : 'no part'}`,
      `part ${number + 1} of ${count}`,
      'Fetch the parts of one model.',
    )
  return gguf
}
