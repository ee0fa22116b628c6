export { streamingLlmOptions } from './options'
export { streamingLlm } from './streaming-llm'
