// Which layers of a model look back over a window only, by config.json, as huggingface/transformers 4.56 decides it
// (configuration_mistral.py, configuration_qwen2.py, configuration_qwen3.py).
import type { Architecture, SlidingWindows } from './config'
import type { SettingsReader } from './settings-reader'

/** The window of a model whose config.json does not say how wide it is. */
const defaultWindow = 4096
/** The layers before this one have full attention in a Qwen model whose config.json does not say. */
const defaultFullLayers = 28

/** Reads the window: an absent `sliding_window` means 4096, null means none. */
export function readWindows(read: SettingsReader, architecture: Architecture, layers: number): SlidingWindows {
  if (architecture === 'llama') return { slidingWindow: undefined }
  const width = read.given('sliding_window') === null ? undefined : read.count('sliding_window', defaultWindow)
  if (architecture === 'mistral') return { slidingWindow: width }
  const used = read.flag('use_sliding_window', false)
  const types = read.present('layer_types') ? layerTypes(read, layers) : undefined
  const firstWindow = read.given('max_window_layers') === 0 ? 0 : read.count('max_window_layers', defaultFullLayers)
  const hasWindow = (layer: number): boolean =>
    types ? types[layer] === 'sliding_attention' : used && width !== undefined && layer >= firstWindow
  const windowLayers = Array.from({ length: layers }, (_, layer) => layer).filter(hasWindow)
  if (windowLayers.length === 0) return { slidingWindow: undefined }
  if (!used || width === undefined)
    read.refuse(
      'layer_types',
      'layers of sliding_attention together with use_sliding_window and sliding_window',
      'Correct config.json.',
    )
  return { slidingWindow: width, ...(windowLayers.length < layers ? { windowLayers } : {}) }
}

function layerTypes(read: SettingsReader, layers: number): readonly unknown[] {
  const types = read.given('layer_types')
  const known = (each: unknown): boolean => each === 'full_attention' || each === 'sliding_attention'
  return Array.isArray(types) && types.length === layers && types.every(known)
    ? types
    : read.refuse('layer_types', `full_attention or sliding_attention for each of ${layers} layers`)
}

/** The same in the words of config.json. */
export function writeWindows(
  architecture: Architecture,
  layers: number,
  { slidingWindow, windowLayers }: SlidingWindows,
): Readonly<Record<string, unknown>> {
  if (architecture === 'llama') return {}
  // An absent window would be read as one of 4096.
  if (architecture === 'mistral') return { sliding_window: slidingWindow ?? null }
  if (slidingWindow === undefined) return { use_sliding_window: false }
  const first = windowLayers?.[0] ?? 0
  const toTheEnd = !windowLayers || windowLayers.length === layers - first
  const types = Array.from({ length: layers }, (_, layer) =>
    !windowLayers || windowLayers.includes(layer) ? 'sliding_attention' : 'full_attention',
  )
  return {
    use_sliding_window: true,
    sliding_window: slidingWindow,
    ...(toTheEnd ? { max_window_layers: first } : { layer_types: types }),
  }
}
