/** Reads golden folders: a `golden.json` and the tensors that it names. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { floatFromHalf, halfFromFloat } from '@kvloom/kernels'
import { type NdArray, sliceLikeNumpy } from './array'
import { GoldenError } from './errors'
import { readGoldenTensors } from './safetensors'

/** How far a result may be off. One tolerance may stand for several tensors: that of `kept` for `kept_r25`. */
export interface Tolerance {
  /** |a - b| <= abs + rel · |b| + absTimesScale · scale of the element's group. */
  readonly abs?: number
  readonly rel?: number
  readonly absTimesScale?: number
  /** Limits the norm of the difference, relative to the norm of what is expected. */
  readonly relFrobenius?: number
  /** The smallest share of elements that must be equal. */
  readonly agreement?: number
  /** The name of a mask of positions where anything is right. */
  readonly except_?: string
  readonly why?: string
}

/** One case of `golden.json`, as read. */
export interface CaseJson {
  readonly name: string
  readonly options?: Readonly<Record<string, unknown>>
  readonly inputs?: Readonly<Record<string, string>>
  readonly expected?: Readonly<Record<string, string>>
  readonly tolerance?: Readonly<Record<string, Tolerance>>
  readonly scalars?: Readonly<Record<string, unknown>>
  readonly note?: string
}

/** A case with its tensors at hand. */
export interface GoldenCase {
  readonly method: string
  readonly name: string
  readonly options: Readonly<Record<string, unknown>>
  readonly scalars: Readonly<Record<string, unknown>>
  readonly note: string
  /** Names of the expected tensors. */
  readonly expects: readonly string[]
  /** Whether the case gives this input. */
  has(input: string): boolean
  /** Reads an input and rounds it as `options.inputRounding` says. @throws GoldenError */
  input(name: string): Promise<NdArray>
  /** Reads an expected tensor. @throws GoldenError */
  expected(name: string): Promise<NdArray>
  /** Reads any tensor of the folder, or of a folder beside it, by `FILE:TENSOR`. @throws GoldenError */
  load(reference: string): Promise<NdArray>
  /** The tolerance of an expected tensor: its own, or that of the longest key with which its name begins. */
  tolerance(name: string): Tolerance
}

/** A folder of cases. */
export interface GoldenFolder {
  readonly path: string
  readonly method: string
  readonly cases: readonly GoldenCase[]
}

/** Gives the cases of a golden.json by its `method`, in the form of the schema; undefined when they have it already. */
export type CasesOf = (method: string, json: Readonly<Record<string, unknown>>) => readonly CaseJson[] | undefined

/** Reads `golden.json` of a folder; tensors are read when a case asks. @throws GoldenError */
export async function readGoldenFolder(path: string, casesOf: CasesOf = () => undefined): Promise<GoldenFolder> {
  const file = join(path, 'golden.json')
  let json: Readonly<Record<string, unknown>>
  try {
    json = JSON.parse(await readFile(file, 'utf8')) as typeof json
  } catch (cause) {
    throw new GoldenError(`${file} cannot be read as JSON. Give a folder that holds a golden.json.`, { cause })
  }
  const { method, cases } = json
  if (typeof method !== 'string' || !Array.isArray(cases))
    throw new GoldenError(`${file} is not golden data: a method name and a list of cases are expected.`)
  const files = new Map<string, Promise<ReadonlyMap<string, NdArray>>>()
  const load = async (reference: string): Promise<NdArray> => {
    const { file: name, tensor, slice } = parseReference(reference)
    const full = join(path, name)
    const tensors = files.get(full) ?? readGoldenTensors(full)
    files.set(full, tensors)
    const found = (await tensors).get(tensor)
    if (!found) throw new GoldenError(`${full} holds no tensor ${tensor}.`)
    return slice === undefined ? found : sliceLikeNumpy(found, slice)
  }
  return { path, method, cases: (casesOf(method, json) ?? (cases as CaseJson[])).map((c) => caseOf(method, c, load)) }
}

function caseOf(method: string, json: CaseJson, load: (reference: string) => Promise<NdArray>): GoldenCase {
  const { name, options = {}, inputs = {}, expected = {}, tolerance = {}, scalars = {}, note = '' } = json
  const named = (list: Readonly<Record<string, string>>, key: string, what: string): Promise<NdArray> => {
    const reference = list[key]
    if (reference === undefined) throw new GoldenError(`Case ${name} gives no ${what} ${key}.`)
    return load(reference)
  }
  return {
    method,
    name,
    options,
    scalars,
    note,
    expects: Object.keys(expected),
    has: (key) => inputs[key] !== undefined,
    async input(key) {
      const array = await named(inputs, key, 'input')
      if (options['inputRounding'] !== 'f16' || !(array.data instanceof Float32Array)) return array
      return { ...array, data: array.data.map((x) => floatFromHalf(halfFromFloat(x))) }
    },
    expected: (key) => named(expected, key, 'expected tensor'),
    load,
    tolerance(key) {
      const known = Object.keys(tolerance).filter((k) => key === k || key.startsWith(`${k}_`))
      const longest = known.sort((a, b) => b.length - a.length)[0]
      return (longest === undefined ? undefined : tolerance[longest]) ?? {}
    },
  }
}

/** Takes `FILE:TENSOR` apart, with an optional numpy slice in brackets. */
function parseReference(reference: string): { file: string; tensor: string; slice?: string } {
  const parts = /^(?<file>[^:]+):(?<tensor>[^[\]]+)(?:\[(?<slice>[^\]]*)\])?$/.exec(reference)?.groups
  const { file, tensor, slice } = parts ?? {}
  if (file === undefined || tensor === undefined)
    throw new GoldenError(`"${reference}" is not a tensor reference of the form FILE:TENSOR[slice].`)
  return slice === undefined ? { file, tensor } : { file, tensor, slice }
}
