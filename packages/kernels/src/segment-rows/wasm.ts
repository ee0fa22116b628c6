import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { lookupBytes, recordsOf, recordWords, writeRecords } from '../segment-record'
import { type ReadSegments, readSegmentsName } from './reference'

/** Bytes of a line of 64 tokens. */
const lineBytes = 64 * 4

export const readSegmentsWasm = wasmKernel<Record<string, TensorInfo>, ReadSegments>(
  readSegmentsName,
  (_, { segments, heads, dim, total }, runtime) => {
    const output = runtime.makeOutput([heads, total, dim], 'float32')
    const words = segments.length * recordWords
    runtime.withScratch(words * 4 + lookupBytes + lineBytes, (pointer) => {
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
        lookup + lookupBytes,
      )
    })
    return output
  },
)
