export { thinkOptions } from './options'
export { channelScores, think } from './think'
