import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { lookupBytes, recordOf, recordWords } from '../segment-record'
import { codebookShapes } from './layout'
import {
  type CodebookDecode,
  type CodebookEncode,
  codebookDecodeName,
  codebookEncodeName,
  encodeFactor,
} from './reference'

export const codebookEncodeWasm = wasmKernel<{ rows: TensorInfo; table: TensorInfo }, CodebookEncode>(
  codebookEncodeName,
  ({ rows, table }, { layout }, runtime) => {
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const { vector, entries, hadamard, tables } = layout
    const { bits, span, units, ...shapes } = codebookShapes('codebookEncode', layout, heads, n, dim)
    const wide = layout.metadata === 'f32'
    const codes = runtime.makeOutput(shapes.codes, 'int32')
    const metadata = shapes.metadata ? runtime.makeOutput(shapes.metadata, wide ? 'float32' : 'int32') : undefined
    const unitBytes = tables === 'shared' ? 0 : entries * vector * 4
    runtime.withScratch(runtime.functions.codebookEncodeScratch(dim, vector, entries), (scratch) =>
      runtime.functions.codebookEncode(
        runtime.pointerOf(rows),
        heads,
        n,
        dim,
        vector,
        bits,
        entries,
        span,
        hadamard,
        encodeFactor(layout),
        wide ? 1 : 0,
        runtime.pointerOf(table),
        unitBytes * units,
        unitBytes,
        runtime.pointerOf(codes),
        (shapes.codes[2] ?? 0) * 4,
        metadata ? runtime.pointerOf(metadata) : 0,
        (shapes.metadata?.[2] ?? 0) * 4,
        scratch,
      ),
    )
    return metadata ? [codes, metadata] : [codes]
  },
)

export const codebookDecodeWasm = wasmKernel<Record<string, TensorInfo>, CodebookDecode>(
  codebookDecodeName,
  ({ codes, metadata, table }, { layout, heads, dim, from, count }, runtime) => {
    const output = runtime.makeOutput([heads, count, dim], 'float32')
    const tensors = [codes, metadata].filter((tensor) => tensor !== undefined) as Tensor[]
    const record = recordOf({ layout, tensors, table: table as Tensor, from, rows: count }, dim, runtime)
    runtime.withScratch(recordWords * 4 + lookupBytes + 16, (pointer) => {
      runtime.int32At(pointer, recordWords).set(record)
      runtime.functions.codebookDecode(pointer, heads, dim, runtime.pointerOf(output), pointer + recordWords * 4)
    })
    return output
  },
)
