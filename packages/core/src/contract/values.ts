/** Types that every interface uses: tensors by name, plain data, parts, phases. */
import type { Tensor } from '@tensorflow/tfjs-core'

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

export type Tensors = Readonly<Record<string, Tensor>>

export type Part = 'keys' | 'values'

export type Phase = 'prompt' | 'promptEnd' | 'decode'

/** A tensor in host memory. Artifacts and tables are made of these. */
export interface HostTensor {
  readonly shape: readonly number[]
  readonly values: Float32Array | Int32Array
}
