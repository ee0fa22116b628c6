// The activations of a gated MLP by the names that huggingface/transformers gives them (activations.py, ACT2CLS).
import type { SettingsReader } from './settings-reader'
import { notComputed } from './settings-reader'

/** What the gate of the MLP goes through, `act(gate) · up`. */
export type Activation =
  /** g σ(g) */
  | 'silu'
  /** g Φ(g), Φ the normal distribution */
  | 'gelu'
  /** The same with Φ by a tanh. */
  | 'gelu-tanh'
  /** g σ(1.702 g) */
  | 'quick-gelu'
  /** max(g, 0) */
  | 'relu'
  /** max(g, 0)² */
  | 'relu2'

/** Every name that means one of them; several names mean the same function. */
const named: ReadonlyMap<string, Activation> = new Map([
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['gelu', 'gelu'],
  ['gelu_python', 'gelu'],
  ['gelu_pytorch_tanh', 'gelu-tanh'],
  ['gelu_new', 'gelu-tanh'],
  ['gelu_fast', 'gelu-tanh'],
  ['gelu_accurate', 'gelu-tanh'],
  ['quick_gelu', 'quick-gelu'],
  ['relu', 'relu'],
  ['relu2', 'relu2'],
])

/** `hidden_act` of a config.json, silu where the file says nothing. @throws ModelFileError naming an activation that is not computed */
export function readActivation(read: SettingsReader): Activation {
  const value = read.given('hidden_act')
  if (value === undefined) return 'silu'
  return (
    (typeof value === 'string' ? named.get(value) : undefined) ??
    read.refuse('hidden_act', [...named.keys()].join(', '), notComputed)
  )
}

/** The name that config.json has for an activation. */
export function activationName(activation: Activation): string {
  if (activation === 'gelu-tanh') return 'gelu_pytorch_tanh'
  return activation.replace('-', '_')
}
