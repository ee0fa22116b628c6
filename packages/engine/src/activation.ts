// The gated activation of the MLP and its slope. SiLU, which nearly every model of these families has, is a kernel; the others are
// tfjs ops. Their formulas are those of huggingface/transformers (activations.py).
import { swiGlu } from '@kvloom/kernels'
import { add, erf, exp, mul, relu, sigmoid, square, step, sub, type Tensor, tanh, tidy } from '@tensorflow/tfjs-core'
import type { Activation } from './models/activations'

/** What the tanh form of GELU puts into its tanh: √(2/π) (g + 0.044715 g³). */
const TANH_SCALE = Math.sqrt(2 / Math.PI)
const TANH_CUBIC = 0.044715
const QUICK_SCALE = 1.702

/** `act(gate) · up`, both `[n, intermediate]`. */
export function gated(activation: Activation, gate: Tensor, up: Tensor): Tensor {
  return activation === 'silu' ? swiGlu(gate, up) : tidy(() => mul(activated(activation, gate), up))
}

/** `act(g)`, of any shape. */
export function activated(activation: Activation, g: Tensor): Tensor {
  return tidy(() => {
    switch (activation) {
      case 'silu':
        return mul(g, sigmoid(g))
      case 'gelu':
        return mul(g, normalBelow(g))
      case 'gelu-tanh':
        return mul(mul(g, 0.5), add(tanh(tanhArgument(g)), 1))
      case 'quick-gelu':
        return mul(g, sigmoid(mul(g, QUICK_SCALE)))
      case 'relu':
        return relu(g)
      case 'relu2':
        return square(relu(g))
    }
  })
}

/** d act(g) / dg, of the shape of g; 0 at the corner of relu. */
export function activationSlope(activation: Activation, g: Tensor): Tensor {
  return tidy(() => {
    switch (activation) {
      case 'silu':
        return gateSlope(g, 1)
      case 'gelu': {
        const density = mul(exp(mul(square(g), -0.5)), 1 / Math.sqrt(2 * Math.PI))
        return add(normalBelow(g), mul(g, density))
      }
      case 'gelu-tanh': {
        const t = tanh(tanhArgument(g))
        const inner = mul(add(mul(square(g), 3 * TANH_CUBIC), 1), TANH_SCALE) // d argument / dg
        return mul(add(add(t, 1), mul(mul(g, sub(1, square(t))), inner)), 0.5)
      }
      case 'quick-gelu':
        return gateSlope(g, QUICK_SCALE)
      case 'relu':
        return step(g)
      case 'relu2':
        return mul(relu(g), 2)
    }
  })
}

/** d (g σ(s g)) / dg = σ(s g) (1 + s g (1 - σ(s g))). */
function gateSlope(g: Tensor, scale: number): Tensor {
  const scaled = mul(g, scale)
  const open = sigmoid(scaled)
  return mul(open, add(1, mul(scaled, sub(1, open))))
}

/** Φ(g) = (1 + erf(g / √2)) / 2. */
const normalBelow = (g: Tensor): Tensor => mul(add(erf(mul(g, Math.SQRT1_2)), 1), 0.5)

const tanhArgument = (g: Tensor): Tensor => mul(add(g, mul(mul(square(g), g), TANH_CUBIC)), TANH_SCALE)
