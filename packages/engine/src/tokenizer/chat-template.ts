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

/** Evaluations a template may take: some thousand for each message of a long chat. */
const stepLimit = 2_000_000
/** Values that a list may hold, those of lists in it included; twenty characters of a text count as one. */
const sizeLimit = 1_000_000
/** Values visited while sizes are checked. */
const visitLimit = 100_000_000

/** Throws `TokenizerError('bad-chat-template')` for messages or limits that the template breaks. */
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
    throw new TokenizerError('bad-chat-template', {
      given: `${messages.length} messages that the model's chat template refuses (${cause instanceof Error ? cause.message : String(cause)})`,
      allowed: 'the roles and the order the template knows, and a template that ends',
      cure: 'Change the messages, or use encode with text.',
      cause,
    })
  }
}

type Evaluated = ReturnType<Interpreter['evaluate']>

/** Counts evaluations, and the size of every list and string they make, before anything writes them out. */
class LimitedInterpreter extends Interpreter {
  private steps = 0
  private visits = 0
  private readonly givenLists = new Set<unknown>()

  constructor(environment: Environment) {
    super(environment)
    // The chat itself may be as long as it is; only what the template makes of it is limited.
    this.givenLists.add(environment.variables.get('messages')?.value)
  }

  override evaluate(...[statement, environment]: Parameters<Interpreter['evaluate']>): Evaluated {
    if (++this.steps > stepLimit) throw new Error(`it takes more than ${stepLimit} steps`)
    const result = super.evaluate(statement, environment)
    if (typeof result.value === 'object' || typeof result.value === 'string') this.measure(result, sizeLimit)
    return result
  }

  /** What is left of `room` after this value. */
  private measure({ value }: Evaluated, room: number): number {
    if (++this.visits > visitLimit) throw new Error(`its lists take more than ${visitLimit} steps to check`)
    let left = room - 1
    if (typeof value === 'string') left -= value.length / 20
    if (left < 0)
      throw new Error(
        `it makes a list of more than ${sizeLimit} values, or a text of more than ${20 * sizeLimit} characters`,
      )
    const inner = value instanceof Map ? value.values() : Array.isArray(value) ? value : []
    if (!this.givenLists.has(value)) for (const each of inner) left = this.measure(each, left)
    return left
  }
}

/** `range` of the library, which fills memory with whatever it is asked for. */
function limitedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const count = Math.ceil((to - from) / step)
  if (!(count <= sizeLimit)) throw new Error(`range() of ${count} numbers; at most ${sizeLimit}`)
  return Array.from({ length: Math.max(0, count) }, (_, i) => from + i * step)
}
