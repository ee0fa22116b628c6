// A chat as the text the model was trained on. Templates are programs out of a model file: they run with limits on steps and sizes,
// and what a message says stays text (`SpecialText.protect`).
import { Environment, Interpreter, parse, Template, tokenize } from '@huggingface/jinja'
import { TokenizerError } from '../errors'

/** One message of a chat. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** What a template is given. */
export interface ChatSetting {
  readonly messages: readonly ChatMessage[]
  readonly addGenerationPrompt: boolean
  readonly bosToken: string
  readonly eosToken: string
}

/** Steps a template may take: evaluations, and turns of loops. A second or two. */
const stepLimit = 200_000
/** More for each message of a chat. */
const stepsPerMessage = 1000
/** Values that a list may hold, those of lists in it included; twenty characters of a text count as one. */
const sizeLimit = 1_000_000
/** Throws `TokenizerError('BAD_CHAT_TEMPLATE')` for messages or limits that the template breaks. */
export function renderChat(
  template: string,
  { messages, addGenerationPrompt, bosToken, eosToken }: ChatSetting,
): string {
  try {
    const environment = new Environment()
    const globals: Readonly<Record<string, unknown>> = {
      false: false,
      true: true,
      none: null,
      False: false,
      True: true,
      None: null,
      raise_exception: (message: unknown) => {
        throw new Error(String(message))
      },
      range: limitedRange,
      // The library keeps its own function to itself; a template of one call reaches it.
      strftime_now: (format: unknown) => new Template('{{ strftime_now(format) }}').render({ format }),
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: addGenerationPrompt,
      bos_token: bosToken,
      eos_token: eosToken,
    }
    for (const [name, value] of Object.entries(globals)) environment.set(name, value)
    const program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }))
    return String(new LimitedInterpreter(environment).run(program).value)
  } catch (cause) {
    throw new TokenizerError('BAD_CHAT_TEMPLATE', {
      given: `${messages.length} messages that the model's chat template refuses (${cause instanceof Error ? cause.message : String(cause)})`,
      allowed: 'the roles and the order the template knows, and a template that ends',
      cure: 'Change the messages, or use encode with text.',
      cause,
    })
  }
}

type Evaluated = ReturnType<Interpreter['evaluate']>

/** Counts evaluations, and the size of every list and text they make, before anything writes them out. */
class LimitedInterpreter extends Interpreter {
  private stepsLeft = stepLimit
  private readonly iterated = new WeakSet<object>()
  /** Sizes of lists and objects by what they hold: they do not change once they are made. */
  private readonly sizes = new WeakMap<object, number>()

  constructor(environment: Environment) {
    super(environment)
    // The chat itself may be as long as it is; only what the template makes of it is limited.
    const chat = environment.variables.get('messages')?.value
    if (!Array.isArray(chat)) return
    this.sizes.set(chat, 1)
    this.stepsLeft += chat.length * stepsPerMessage
  }

  override evaluate(...[statement, environment]: Parameters<Interpreter['evaluate']>): Evaluated {
    this.spend(1)
    if (isLoop(statement)) this.iterated.add(listOf(statement))
    const result = super.evaluate(statement, environment)
    // A loop takes its turns without asking again.
    if (statement && this.iterated.has(statement) && Array.isArray(result.value)) this.spend(result.value.length)
    this.sizeOf(result)
    return result
  }

  private spend(steps: number): void {
    this.stepsLeft -= steps
    if (this.stepsLeft < 0) throw new Error('it takes more steps than a chat needs')
  }

  private sizeOf({ type, value }: Evaluated): number {
    if (typeof value === 'string') return checkSize(1 + value.length / 20)
    const inner = value instanceof Map ? value.values() : Array.isArray(value) ? value : undefined
    if (!inner || typeof value !== 'object' || value === null) return 1
    const known = this.sizes.get(value)
    if (known !== undefined) return known
    let size = 1
    for (const each of inner) size = checkSize(size + this.sizeOf(each))
    // Only a namespace may hold something else the next time.
    if (type !== 'NamespaceValue') this.sizes.set(value, size)
    return size
  }
}

/** A loop of a template; a condition on its items stands around the list. */
type Loop = { readonly iterable: { readonly type: string; readonly lhs?: object } }

const isLoop = (statement: object | undefined): statement is Loop =>
  statement !== undefined && 'type' in statement && statement.type === 'For'

const listOf = ({ iterable }: Loop): object =>
  (iterable.type === 'SelectExpression' ? iterable.lhs : undefined) ?? iterable

function checkSize(size: number): number {
  if (size <= sizeLimit) return size
  throw new Error(`it makes a list of more than ${sizeLimit} values, or a text of ${20 * sizeLimit} characters`)
}

/** `range` of the library, which fills memory with whatever it is asked for. */
function limitedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const count = Math.ceil((to - from) / step)
  if (!(count <= sizeLimit)) throw new Error(`range() of ${count} numbers; at most ${sizeLimit}`)
  return Array.from({ length: Math.max(0, count) }, (_, i) => from + i * step)
}
