/** Which sequences a step trains on and how fast, as functions of its number: a resumed run asks the same questions and gets the same answers. */
import type { TrainingLoss, TrainingPhase } from '@kvloom/core'
import { uniformRandom } from '@kvloom/engine'

/** Share of a phase's steps in which the learning rate rises. */
const WARM_UP = 0.05
/** Steps of a block: the original model's hidden states are at hand for its sequences, for as many passes as the phase has. */
export const BLOCK_STEPS = 8

/** Is the loss one of single layers? */
export const isLayerLoss = (loss: TrainingLoss): loss is 'attention' | 'layer' =>
  loss === 'attention' || loss === 'layer'

/** A phase with its place in a run. */
export interface PlannedPhase extends TrainingPhase {
  readonly steps: number
  /** Number of its first sequence in the stream of sequences. */
  readonly firstSequence: number
}

/** Cuts `tokens` into steps of `batch · length` tokens, at least one a phase. */
export function planPhases(
  phases: readonly TrainingPhase[],
  { tokens, batch, length }: { readonly tokens: number; readonly batch: number; readonly length: number },
): readonly PlannedPhase[] {
  let firstSequence = 0
  return phases.map((phase) => {
    const steps = Math.max(1, Math.round((tokens * phase.share) / (batch * length)))
    const planned = { ...phase, steps, firstSequence }
    const blocks = Math.ceil(steps / (BLOCK_STEPS * (phase.passes ?? 1)))
    firstSequence += (isLayerLoss(phase.loss) ? blocks * BLOCK_STEPS : steps) * batch
    return planned
  })
}

/** Rises in a line to the phase's learning rate, then falls along half a cosine to 0. @param step from 0 */
export function learningRateAt({ steps, learningRate }: PlannedPhase, step: number): number {
  const rising = Math.max(1, Math.round(steps * WARM_UP))
  if (step < rising) return (learningRate * (step + 1)) / rising
  return (learningRate * (1 + Math.cos((Math.PI * (step - rising)) / Math.max(1, steps - rising)))) / 2
}

/** The number of the block that a step of a layer-wise phase belongs to. */
export const blockOf = ({ passes = 1 }: PlannedPhase, step: number): number => Math.floor(step / (BLOCK_STEPS * passes))

/** The stream's numbers of a block's sequences. */
export const sequencesOfBlock = ({ firstSequence }: PlannedPhase, block: number, batch: number): number[] =>
  Array.from({ length: BLOCK_STEPS * batch }, (_, i) => firstSequence + block * BLOCK_STEPS * batch + i)

/** Of a step of a layer-wise phase: which of its block's sequences it takes. Every pass has an order of its own. */
export function placesInBlock({ passes = 1 }: PlannedPhase, step: number, batch: number, seed: number): number[] {
  const within = step % (BLOCK_STEPS * passes)
  const [pass, place] = [Math.floor(within / BLOCK_STEPS), within % BLOCK_STEPS]
  const order = shuffled(BLOCK_STEPS * batch, mixed(seed, step - within, pass + 1))
  return order.slice(place * batch, (place + 1) * batch)
}

/** Which of `count` sequences stands at a place of the endless stream: every round takes each once, in an order of its own. */
export class SequenceStream {
  private round = -1
  private order: readonly number[] = []

  constructor(
    private readonly count: number,
    private readonly seed: number,
  ) {}

  at(place: number): number {
    const round = Math.floor(place / this.count)
    if (round !== this.round) {
      this.order = shuffled(this.count, mixed(this.seed, round, 0))
      this.round = round
    }
    return this.order[place % this.count] ?? 0
  }
}

/** 0 … count - 1 in an order that follows from the seed (Fisher and Yates). */
function shuffled(count: number, seed: number): number[] {
  const random = uniformRandom(seed)
  const order = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0]
  }
  return order
}

/** One seed of three numbers. */
const mixed = (a: number, b: number, c: number): number =>
  Math.imul(Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ b, 0xc2b2ae35) ^ Math.imul(c, 0x27d4eb2f)
