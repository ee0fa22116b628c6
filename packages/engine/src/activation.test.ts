import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { activated, activationSlope, gated } from './activation'
import { engineBackends, useBackend } from './backend'
import type { Activation } from './models/activations'

/** Largest difference to the value in float64: float32, and an erf that tfjs computes to 1.5e-7. */
const ROUNDING = 5e-7

/** Inputs and, by PyTorch 2 in float64, the activation of each and its slope there. */
const inputs = [-6, -2.5, -1, -0.3, 0.2, 0.7, 1.5, 4]
const expected: Readonly<
  Record<Activation, { readonly values: readonly number[]; readonly slopes: readonly number[] }>
> = {
  silu: {
    values: [
      -0.01483573894, -0.189645450053, -0.26894142137, -0.127667244957, 0.109966799462, 0.467731440518, 1.22636171429,
      3.928055160152,
    ],
    slopes: [
      -0.012326432592, -0.099401111342, 0.072329488129, 0.352219989681, 0.599337311855, 0.823386783473, 1.041294154299,
      1.052664614891,
    ],
  },
  gelu: {
    values: [
      -5.92e-9, -0.015524163314, -0.158655253931, -0.114626573343, 0.115851941888, 0.530625443444, 1.399789198097,
      3.999873315033,
    ],
    slopes: [
      -3.5469e-8, -0.037611085908, -0.083315470588, 0.267672233173, 0.657468248234, 0.976614101134, 1.12746919223,
      1.000503649661,
    ],
  },
  'gelu-tanh': {
    values: [
      -8.4e-11, -0.01508426609, -0.158808009392, -0.114629076457, 0.115851429782, 0.530570134705, 1.39957157698,
      3.999929754052,
    ],
    slopes: [
      -7.71e-10, -0.037951576213, -0.082964083846, 0.267704548361, 0.657458149196, 0.976357218656, 1.127710793151,
      1.000335123197,
    ],
  },
  'quick-gelu': {
    values: [
      -0.00022035355, -0.034986165049, -0.154204234067, -0.112515864618, 0.116857536889, 0.536893951723, 1.391662198447,
      3.99558527586,
    ],
    slopes: [
      -0.000338302376, -0.044718666081, -0.067779606556, 0.255374258094, 0.666969342004, 0.979913142001, 1.098848064624,
      1.006401886545,
    ],
  },
  relu: { values: [0.0, 0.0, 0.0, 0.0, 0.2, 0.7, 1.5, 4.0], slopes: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0] },
  relu2: { values: [0.0, 0.0, 0.0, 0.0, 0.04, 0.49, 2.25, 16.0], slopes: [0.0, 0.0, 0.0, 0.0, 0.4, 1.4, 3.0, 8.0] },
}

describe.each(engineBackends)('on %s', (backend) => {
  it.each(Object.entries(expected))('%s and its slope, as PyTorch has them', async (name, { values, slopes }) => {
    await useBackend(backend)
    const activation = name as Activation
    const before = tf.memory().numTensors
    const g = tf.tensor1d(inputs)
    const up = tf.tensor1d(inputs.map((_, i) => (i % 2 ? 1 : -0.5)))
    const tensors = [activated(activation, g), activationSlope(activation, g), gated(activation, g, up)]
    const [value, slope, product] = await Promise.all(tensors.map((each) => each.data()))
    inputs.forEach((input, i) => {
      const scale = Math.max(1, Math.abs(values[i] ?? 0))
      expect(Math.abs((value?.[i] ?? NaN) - (values[i] ?? NaN)) / scale, `at ${input}`).toBeLessThan(ROUNDING)
      expect(Math.abs((slope?.[i] ?? NaN) - (slopes[i] ?? NaN)), `slope at ${input}`).toBeLessThan(4 * ROUNDING)
      expect(Math.abs((product?.[i] ?? NaN) - (values[i] ?? NaN) * (i % 2 ? 1 : -0.5)) / scale).toBeLessThan(ROUNDING)
    })
    tf.dispose([g, up, ...tensors])
    expect(tf.memory().numTensors).toBe(before)
  })
})
