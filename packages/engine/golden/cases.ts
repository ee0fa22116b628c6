/** The engine's golden.json has a form of its own; here it becomes cases of the schema. */
import { type CaseJson, GoldenError, type Tolerance } from '@kvloom/golden'

/** What the file says of one text. */
interface TextJson {
  readonly name: string
  readonly file: string
  readonly layers: readonly number[]
  readonly logitPositions: readonly number[]
  readonly greedy: { readonly promptTokens: number; readonly newIds: readonly number[] }
}

interface EngineJson {
  readonly cases: readonly TextJson[]
  readonly tokenizer?: readonly { readonly text: string; readonly ids: readonly number[] }[]
  readonly chatTemplate?: string
  readonly tolerance?: Readonly<Record<string, Tolerance>>
}

/** Two cases a text (computed, generated), one a string of the tokenizer, one for the chat template. @throws GoldenError */
export function casesOf(json: Readonly<Record<string, unknown>>): readonly CaseJson[] {
  const { cases, tokenizer = [], chatTemplate, tolerance = {} } = json as unknown as EngineJson
  if (!cases.every((text) => text.file && text.greedy && text.layers && text.logitPositions))
    throw new GoldenError('Golden data of the engine: every case needs a file, layers, logitPositions and greedy ids.')
  return [
    ...cases.flatMap((text) => [computed(text, tolerance), generated(text)]),
    ...tokenizer.map(({ text, ids }, i) => ({ name: `tokenizer-${i + 1}`, options: { kind: 'tokenizer', text, ids } })),
    ...(chatTemplate === undefined ? [] : [template(chatTemplate)]),
  ]
}

function computed({ name, file, layers, logitPositions }: TextJson, tolerance: EngineJson['tolerance'] = {}): CaseJson {
  const logits = logitPositions.map((position) => `logits.${position}`)
  const rows = layers.flatMap((layer) => [`layer${layer}.k`, `layer${layer}.v`])
  return {
    name,
    options: { kind: 'text', layers, logitPositions },
    inputs: { ids: `${file}:ids` },
    expected: Object.fromEntries([...logits, 'nll', ...rows].map((each) => [each, `${file}:${each}`])),
    tolerance: {
      ...(tolerance['nll'] ? { nll: tolerance['nll'] } : {}),
      ...Object.fromEntries(logits.map((each) => [each, tolerance['logits'] ?? {}])),
    },
  }
}

const generated = ({ name, file, greedy }: TextJson): CaseJson => ({
  name: `${name}-greedy`,
  options: { kind: 'greedy', ...greedy },
  inputs: { ids: `${file}:ids` },
})

/** The question stands in the text that is expected. */
function template(text: string): CaseJson {
  const [, question = ''] = /user\n([^<]*)</.exec(text) ?? []
  return { name: 'chat-template', options: { kind: 'chat-template', text, question } }
}
