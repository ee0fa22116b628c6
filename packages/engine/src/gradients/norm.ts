// RMSNorm, backwards.
import * as tf from '@tensorflow/tfjs-core'

/** From the gradient at the norm's output to that at x, `[..., width]`: with r = 1 / rms(x) and g = dy · w, dx = r (g - x r² mean(g x)). */
export function normGradient(x: tf.Tensor, weight: tf.Tensor, epsilon: number, gradient: tf.Tensor): tf.Tensor {
  return tf.tidy(() => {
    const r = inverseRms(x, epsilon) // [..., 1]
    const g = tf.mul(gradient, weight)
    const along = tf.mul(tf.square(r), tf.mean(tf.mul(g, x), -1, true)) // [..., 1]
    return tf.mul(r, tf.sub(g, tf.mul(x, along)))
  })
}

/** The same at the norm's weight, `[width]`: the sum over rows of dy · x r. */
export function normWeightGradient(x: tf.Tensor, epsilon: number, gradient: tf.Tensor): tf.Tensor {
  return tf.tidy(() => {
    const width = x.shape.at(-1) ?? 1
    return tf.sum(tf.reshape(tf.mul(gradient, tf.mul(x, inverseRms(x, epsilon))), [-1, width]), 0)
  })
}

const inverseRms = (x: tf.Tensor, epsilon: number): tf.Tensor =>
  tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon))
