/** What an artifact was fitted for, as data and in words: the same facts that its fingerprint hashes. */
import {
  type AnyStage,
  type Artifact,
  type FittedFor,
  type FittedStage,
  type Json,
  type Kind,
  type KVCompressor,
  type ModelShape,
  type Part,
  SEALING,
} from './contract'

/** Stages of these kinds decide what a fitted stage receives. */
const SHAPING: readonly Kind[] = ['model', ...SEALING]

/** The model's weights and every stage that shapes rows, with its options and the layers and part it acts on. */
export const fittedFor = (model: ModelShape, compressor: KVCompressor): FittedFor => ({
  model: model.name,
  weights: model.fingerprint,
  stages: compressor.stages.filter((s) => SHAPING.includes(s.kind)).map(fittedStage),
})

const fittedStage = ({ kind, id, options, on }: AnyStage): FittedStage => ({
  kind,
  id,
  // JSON leaves some fields out. So does this copy, and a description that was read from a file equals one made now.
  options: JSON.parse(JSON.stringify(options ?? null)) as Json,
  on: on ? (JSON.parse(JSON.stringify(on)) as NonNullable<FittedStage['on']>) : null,
})

/**
 * Why an artifact does not fit, as one clause that begins with a small letter and ends with a full stop: another model, a stage
 * more or less, other options, other layers.
 * @param wanted what `fittedFor` says of the model and compressor at hand
 */
export function differenceInWords({ fittedFor: was, stage }: Artifact, wanted: FittedFor): string {
  if (!was)
    return 'it was fitted by an older kvloom, which did not write down for what; it is not what is asked for now.'
  const all = [...modelDifference(was, wanted), ...stageDifferences(was.stages, wanted.stages)]
  if (!wanted.stages.some((s) => s.id === stage)) all.unshift(`no stage ${stage} is asked for`)
  if (all.length === 0)
    return 'its fingerprint does not belong to what it says it was fitted for; the file was changed.'
  return `${[...new Set(all)].join('; ')}.`
}

function modelDifference(was: FittedFor, now: FittedFor): readonly string[] {
  if (was.weights === now.weights) return []
  const [before, after] = [was, now].map(({ model, weights }) => `${model} (weights ${weights.slice(0, 12)})`)
  return [`it was fitted on the model ${before}, and this is ${after}`]
}

function stageDifferences(was: readonly FittedStage[], now: readonly FittedStage[]): readonly string[] {
  const differences: string[] = []
  const options: OptionDifference[] = []
  const left = [...was]
  const unmatched: FittedStage[] = []
  for (const stage of now) {
    const before = takeLike(left, stage)
    if (!before) unmatched.push(stage)
    else {
      options.push(...optionDifferences(before, stage))
      differences.push(...placeDifferences(before, stage))
    }
  }
  differences.unshift(...inWords(options))
  for (const { id, kind } of left) differences.push(`it was fitted beside ${id} (${kind}), which is not here`)
  for (const { id, kind } of unmatched) differences.push(`${id} (${kind}) is here, and was not when it was fitted`)
  if (differences.length === 0 && JSON.stringify(was) !== JSON.stringify(now))
    differences.push(`the stages stood in another order: ${was.map((s) => s.id).join(', ')}`)
  return differences
}

/** Takes the stage of this id and kind out of `left`, preferably the one of the same part and layers. */
function takeLike(left: FittedStage[], { kind, id, on }: FittedStage): FittedStage | undefined {
  const like = left.filter((s) => s.kind === kind && s.id === id)
  const found =
    like.find((s) => JSON.stringify(s.on) === JSON.stringify(on)) ??
    like.find((s) => s.on?.part === on?.part) ??
    like[0]
  if (found) left.splice(left.indexOf(found), 1)
  return found
}

/** One option of one stage and part whose value was another when the artifact was fitted. */
interface OptionDifference {
  readonly id: string
  readonly part: Part | undefined
  readonly change: string
}

function optionDifferences(was: FittedStage, now: FittedStage): readonly OptionDifference[] {
  const [before, after] = [was.options, now.options].map(asRecord)
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])]
  return names
    .filter((name) => JSON.stringify(before?.[name]) !== JSON.stringify(after?.[name]))
    .map((name) => ({
      id: now.id,
      part: now.on?.part,
      change: `${name}=${shown(before?.[name])}, and ${name}=${shown(after?.[name])} is asked for`,
    }))
}

/** Says each change in a clause. The part is named where only one of the two changed. */
function inWords(options: readonly OptionDifference[]): readonly string[] {
  return options.map(({ id, part, change }) => {
    const same = options.filter((o) => o.id === id && o.change === change)
    const one = part !== undefined && same.every((o) => o.part === part)
    return `it was fitted with ${id}${one ? ` of the ${part}` : ''} at ${change}`
  })
}

const asRecord = (options: Json): Readonly<Record<string, Json>> =>
  typeof options === 'object' && options !== null && !Array.isArray(options)
    ? (options as Readonly<Record<string, Json>>)
    : { options }

const shown = (value: Json | undefined): string =>
  value === undefined ? '(unset)' : value === null ? '(left out)' : JSON.stringify(value)

function placeDifferences(was: FittedStage, now: FittedStage): readonly string[] {
  if (JSON.stringify(was.on) === JSON.stringify(now.on)) return []
  return [`it was fitted with ${now.id} on ${placeInWords(was.on)}, and ${placeInWords(now.on)} is asked for`]
}

function placeInWords(on: FittedStage['on']): string {
  const part = on?.part ?? 'keys and values'
  const layers = on?.layers ? `layers ${on.layers.join(', ') || '(none)'}` : 'all layers'
  return `${part} of ${layers}${on?.except?.length ? ` except ${on.except.join(', ')}` : ''}`
}
