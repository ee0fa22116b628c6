import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { recordsOf, recordWords, writeRecords } from '../segment-record'
import { type ReadSegments, readSegmentsName } from './reference'

/** Bytes of the table that turns a byte of codes into channels, and of a line of 64 tokens. */
const scratchBytes = 16 + 4096 + 64 * 4

export const readSegmentsWasm = wasmKernel<Record<string, TensorInfo>, ReadSegments>(
  readSegmentsName,
  (_, { segments, heads, dim, total }, runtime) => {
    const output = runtime.makeOutput([heads, total, dim], 'float32')
    const words = segments.length * recordWords
    runtime.withScratch(words * 4 + scratchBytes, (pointer) => {
      writeRecords(recordsOf(segments, dim, runtime), runtime.int32At(pointer, words), 0)
      const lookup = pointer + words * 4
      runtime.functions.readSegments(
        pointer,
        segments.length,
        heads,
        total,
        dim,
        runtime.pointerOf(output),
        lookup,
        lookup + 16 + 4096,
      )
    })
    return output
  },
)
