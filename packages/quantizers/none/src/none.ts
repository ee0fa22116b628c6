/**
 * No compression: every key and value stays, as a dense row. The baseline that ratios and errors are measured against.
 *
 * There is no paper. `store: 'f16'` rounds a row once, when it is appended; `store: 'f32'` keeps what the model computed.
 */
import { defineMethod } from '@kvloom/core'
import { noneOptions } from './options'

/** A dense cache. Its space and windows are the defaults: nothing is dropped, nothing is ever sealed. */
export const none = defineMethod(
  {
    name: 'none',
    title: 'No compression',
    summary: 'A dense f16 or f32 cache: the baseline.',
    chunkInvariant: true,
  },
  noneOptions,
  ({ store }) => ({ stages: [], store }),
)
