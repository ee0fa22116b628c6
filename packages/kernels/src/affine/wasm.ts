import { type TensorInfo, util } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { affineShapes, metadataForm } from '../layouts'
import { blockEncodeName } from './block-reference'
import {
  type AffineDecode,
  type AffineEncode,
  affineDecodeName,
  affineEncodeName,
  affineOverflowName,
} from './reference'

export const affineEncodeWasm = wasmKernel<{ rows: TensorInfo }, AffineEncode>(
  affineEncodeName,
  ({ rows }, { layout }, runtime) => {
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const shapes = affineShapes('affineEncode', layout, heads, n, dim)
    const wide = layout.metadata === 'f32'
    const words = runtime.makeOutput(shapes.words, 'int32')
    const metadata = runtime.makeOutput(shapes.metadata, wide ? 'float32' : 'int32')
    runtime.functions.affineEncode(
      runtime.pointerOf(rows),
      heads,
      n,
      dim,
      layout.bits,
      layout.group,
      layout.along === 'tokens' ? 1 : 0,
      wide ? 1 : 0,
      runtime.pointerOf(words),
      runtime.pointerOf(metadata),
    )
    return [words, metadata]
  },
)

export const blockEncodeWasm = wasmKernel<{ rows: TensorInfo }, AffineEncode>(
  blockEncodeName,
  ({ rows }, { layout }, runtime) => {
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const shapes = affineShapes('blockEncode', layout, heads, n, dim)
    const words = runtime.makeOutput(shapes.words, 'int32')
    const metadata = runtime.makeOutput(shapes.metadata, 'int32')
    runtime.functions.blockEncode(
      runtime.pointerOf(rows),
      heads * n,
      dim,
      layout.bits,
      layout.group,
      layout.symmetric ? 1 : 0,
      runtime.pointerOf(words),
      runtime.pointerOf(metadata),
    )
    return [words, metadata]
  },
)

const decodeScratchBytes = 64 * 4

export const affineDecodeWasm = wasmKernel<{ words: TensorInfo; metadata: TensorInfo }, AffineDecode>(
  affineDecodeName,
  ({ words, metadata }, { layout, heads, rows, dim, from, count }, runtime) => {
    const output = runtime.makeOutput([heads, count, dim], 'float32')
    runtime.withScratch(decodeScratchBytes, (scratch) =>
      runtime.functions.affineDecode(
        runtime.pointerOf(words),
        runtime.pointerOf(metadata),
        heads,
        rows,
        dim,
        layout.bits,
        layout.group,
        layout.along === 'tokens' ? 1 : 0,
        metadataForm(layout),
        from,
        count,
        runtime.pointerOf(output),
        scratch,
      ),
    )
    return output
  },
)

export const affineOverflowWasm = wasmKernel<{ metadata: TensorInfo }, Record<string, never>>(
  affineOverflowName,
  ({ metadata }, _, runtime) => {
    const output = runtime.makeOutput([1], 'int32')
    const found = runtime.functions.metadataOverflow(
      runtime.pointerOf(metadata),
      util.sizeFromShape(metadata.shape),
      metadata.dtype === 'int32' ? 0 : 1,
    )
    runtime.int32(output)[0] = found
    return output
  },
)
