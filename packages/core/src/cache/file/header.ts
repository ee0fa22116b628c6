/** Checks the header of a cache file: numbers are in range, names are known, nothing is missing. */
import * as z from 'zod/mini'
import type { Json } from '../../contract'
import { SerializedCacheError } from '../../errors'
import { ZONES } from '../rows/zones'
import type { Header } from './format'

const count = z.int().check(z.nonnegative())
const rank = 6
const tensor = z.object({
  shape: z.array(count).check(z.maxLength(rank)),
  dtype: z.enum(['float32', 'int32']),
  bytes: z.optional(count),
})
const tensors = z.record(z.string(), tensor)
const stored = z.object({ block: tensors, scale: z.nullable(tensor) })
const page = z.object({
  stored: z.nullable(stored),
  host: z.nullable(stored),
  exempt: z.nullable(z.object({ index: tensor, rows: z.array(tensor) })),
  capacity: z.int().check(z.positive()),
  used: count,
  sealed: z.boolean(),
  rowWise: z.boolean(),
  fitted: z.nullable(count),
})
const part = z.object({
  views: z.array(
    z.object({ zone: z.enum([...ZONES]), page: count, from: count, rows: z.int().check(z.positive()), shift: count }),
  ),
  fitted: z.nullable(count),
  kept: z.nullable(tensor),
})
const lane = z.object({
  keys: part,
  values: part,
  gathered: z.nullable(tensor),
  runs: z.array(z.object({ start: count, rows: z.int().check(z.positive()) })),
  highest: count,
  shift: count,
  dead: z.nullable(z.array(z.array(count))),
  columns: tensors,
})
const layer = z.object({
  lanes: z.array(lane),
  ring: z.nullable(tensor),
  hidden: z.optional(tensor),
  recall: z.array(z.array(z.object({ rows: z.int().check(z.positive()), tensors }))),
  memory: z.array(z.json()),
})
const schema = z.object({
  model: z.string(),
  compressor: z.string(),
  tokens: z.array(z.int()),
  settledTokens: count,
  pages: z.array(page),
  fits: z.array(z.object({ state: tensors })),
  layers: z.array(layer),
})

/** @throws SerializedCacheError that names the first field that is wrong */
export function headerOf(bytes: Uint8Array): Header {
  let json: Json
  try {
    json = JSON.parse(new TextDecoder().decode(bytes)) as Json
  } catch (error) {
    throw new SerializedCacheError(`its header is no JSON (${error instanceof Error ? error.message : String(error)}).`)
  }
  const result = checked(json)
  if (result.success) return result.data as Header
  const [issue] = result.error.issues
  throw new SerializedCacheError(
    `${issue?.path.join('.') || 'its header'} is not what it should be (${issue?.message}).`,
  )
}

/** Refuses JSON that is nested too deeply, which would overflow the stack of any checker. */
function checked(json: Json) {
  try {
    return schema.safeParse(json)
  } catch {
    throw new SerializedCacheError('its header is nested too deeply.')
  }
}
