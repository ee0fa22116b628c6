// Talking to the Hugging Face Hub: limits on waiting, and its refusals as typed errors.
import { HUB_URL, HubApiError, InvalidApiResponseFormatError } from '@huggingface/hub'
import { ResolveError } from '../errors'
import { checkCancelled, type StoreContext } from './store'

/** How to talk to the Hub. */
export interface HubOptions extends StoreContext {
  /** Address of the Hub; undefined for the one of Hugging Face. */
  readonly hubUrl: string | undefined
  readonly accessToken: string | undefined
  readonly fetch: typeof fetch
  /** Longest wait for an answer. */
  readonly connectMilliseconds: number
  /** Longest silence while data flows. */
  readonly stallMilliseconds: number
}

/** The server gave the whole file where a part was asked for. */
export class RangeIgnored extends Error {}

/** `fetch` with the caller's signal and a limit on the wait for an answer; says when the Hub cannot be reached. */
export function patientFetch(options: HubOptions, signal: AbortSignal | undefined): typeof fetch {
  return async (input, init) => {
    const controller = new AbortController()
    const either = signal ? AbortSignal.any([signal, controller.signal]) : controller.signal
    const timer = setTimeout(
      () => controller.abort(new Error(`no answer for ${options.connectMilliseconds} ms`)),
      options.connectMilliseconds,
    )
    try {
      const response = await options.fetch(input, { ...init, signal: either })
      const range = new Headers(init?.headers).get('range')
      if (range && !/^bytes=0-/.test(range) && response.status === 200) {
        controller.abort()
        throw new RangeIgnored()
      }
      return response
    } catch (cause) {
      if (cause instanceof RangeIgnored || signal?.aborted) throw cause
      const detail =
        cause instanceof Error ? (cause.cause instanceof Error ? cause.cause.message : cause.message) : String(cause)
      throw new ResolveError('UNREACHABLE', {
        given: `${address(options)}, which cannot be reached (${detail})`,
        allowed: 'a network that reaches the Hub',
        cure: 'Check the network or proxy, or give the path of a model file.',
        cause,
      })
    } finally {
      clearTimeout(timer)
    }
  }
}

/** Address of the Hub in use. */
export const address = (options: HubOptions) => options.hubUrl ?? HUB_URL

/** What every call of the library gets. */
export const connection = (options: HubOptions, signal: AbortSignal | undefined) => ({
  hubUrl: address(options),
  fetch: patientFetch(options, signal),
  ...(options.accessToken === undefined ? {} : { accessToken: options.accessToken }),
})

/** Answers of the Hub that are no success, as typed errors. */
export function hubError(error: unknown, what: string): unknown {
  // The library reads answers in good faith: one of another shape ends in an error of JavaScript.
  if (error instanceof InvalidApiResponseFormatError || error instanceof TypeError || error instanceof SyntaxError) {
    return new ResolveError('HUB_REFUSED', {
      given: `${what}, for which the Hub answered something unexpected (${error.message})`,
      allowed: 'the answers of a Hugging Face Hub',
      cure: 'Check the address of the Hub and any proxy between.',
      cause: error,
    })
  }
  if (!(error instanceof HubApiError)) return error
  const { statusCode } = error
  if (statusCode === 404) return missingOnHub(what, error)
  const cure =
    statusCode === 401 || statusCode === 403
      ? 'Check the name; private and gated models need an access token.'
      : 'Try again later.'
  return new ResolveError('HUB_REFUSED', {
    given: `${what}, for which the Hub answered ${statusCode}`,
    allowed: 'an answer of 200',
    cure,
    cause: error,
  })
}

/** The Hub has no such thing. */
export const missingOnHub = (what: string, cause?: unknown) =>
  new ResolveError('NOT_FOUND', {
    given: `${what}, which the Hub does not have`,
    allowed: 'owner/repo or owner/repo/file.gguf',
    cure: 'Check the spelling.',
    cause,
  })

/** Runs a question to the Hub with typed errors. */
export async function asking<T>(what: string, options: HubOptions, question: () => Promise<T>): Promise<T> {
  try {
    return await question()
  } catch (error) {
    checkCancelled(options.signal, what)
    throw hubError(error, what)
  }
}
