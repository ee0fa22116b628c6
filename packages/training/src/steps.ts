/** One step of a phase: the mean loss of its sequences, and its gradients summed over them. */
import type { LayerStates, TrainableModel, WeightValues } from '@kvloom/engine'
import {
  blockOf,
  isLayerLoss,
  type PlannedPhase,
  placesInBlock,
  type SequenceStream,
  sequencesOfBlock,
} from './schedule'

/** What a step is made with. */
export interface StepContext {
  readonly original: TrainableModel
  readonly student: TrainableModel
  readonly sequences: readonly Int32Array[]
  readonly stream: SequenceStream
  readonly batch: number
  readonly seed: number
  readonly layers: number
  readonly hiddenSize: number
  /** Called between two pieces of work; what it throws ends the step, which has changed nothing then. */
  readonly breathe: () => void
}

/** What a step found. */
export interface StepResult {
  /** As the record has it: the mean over layers and tokens of ||apart||₂ / hidden size, or nats per token. */
  readonly loss: number
  readonly gradients: WeightValues
  /** What the sums in `gradients` have to be divided by for a mean over tokens. */
  readonly tokens: number
}

/** Steps of one run. It keeps the original model's hidden states of the block that it is in. */
export class Steps {
  private block: { readonly name: string; readonly states: readonly (readonly LayerStates[])[] } | null = null

  constructor(private readonly context: StepContext) {}

  take(phase: PlannedPhase, step: number): Promise<StepResult> {
    return isLayerLoss(phase.loss) ? this.layerWise(phase, step, phase.loss) : this.endToEnd(phase, step, phase.loss)
  }

  /** Every layer by itself, on what the original model's layer was given and gave. */
  private async layerWise(phase: PlannedPhase, step: number, target: 'attention' | 'layer'): Promise<StepResult> {
    const { student, batch, seed, layers, hiddenSize, breathe } = this.context
    const states = await this.statesOf(phase, step, target)
    const gradients = new Map<string, Float32Array>()
    let loss = 0
    let tokens = 0
    for (const place of placesInBlock(phase, step, batch, seed)) {
      for (const [layer, each] of (states[place] ?? []).entries()) {
        const found = await student.layerGradients(layer, each, target, phase.weights)
        loss += found.loss
        addTo(gradients, found.gradients)
        breathe()
      }
      tokens += (states[place]?.[0]?.input.length ?? 0) / hiddenSize
    }
    return { loss: loss / (layers * tokens * hiddenSize), gradients, tokens }
  }

  private async statesOf(phase: PlannedPhase, step: number, target: 'attention' | 'layer') {
    const { original, stream, batch, breathe } = this.context
    const block = blockOf(phase, step)
    const name = `${phase.name} ${block}`
    if (this.block?.name === name) return this.block.states
    this.block = null
    const states: LayerStates[][] = []
    for (const place of sequencesOfBlock(phase, block, batch)) {
      states.push(await original.layerStates(this.sequence(stream.at(place)), target, breathe))
    }
    this.block = { name, states }
    return states
  }

  /** The whole model. */
  private async endToEnd(phase: PlannedPhase, step: number, loss: 'teacher' | 'next-token'): Promise<StepResult> {
    const { original, student, stream, batch, breathe } = this.context
    this.block = null
    const gradients = new Map<string, Float32Array>()
    let total = 0
    let tokens = 0
    for (let i = 0; i < batch; i++) {
      const ids = this.sequence(stream.at(phase.firstSequence + step * batch + i))
      const teacher = loss === 'teacher' ? original : null
      const found = await student.sequenceGradients(ids, loss, teacher, phase.weights, breathe)
      total += found.divergence ?? found.nextToken
      addTo(gradients, found.gradients)
      tokens += ids.length - 1
    }
    return { loss: total / tokens, gradients, tokens }
  }

  private sequence(number: number): Int32Array {
    return this.context.sequences[number] ?? new Int32Array()
  }
}

/** Adds to sums, in place. */
function addTo(sums: Map<string, Float32Array>, more: WeightValues): void {
  for (const [name, values] of more) {
    const sum = sums.get(name)
    if (!sum) sums.set(name, values.slice())
    else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (values[i] ?? 0)
  }
}
