/** Cases of StreamingLLM, which kvpress made: once, at the end of the prompt. */
import { numberOption, type PressAdapter } from '@kvloom/golden'
import { streamingLlm } from '../src/streaming-llm'

/** StreamingLLM against kvpress. */
export const adapter: PressAdapter = {
  press: {
    name: 'streamingllm',
    countsAsAny: true,
    make: (golden, keep) => streamingLlm({ keep, sinks: numberOption(golden, 'n_sink', 4) }),
  },
}
