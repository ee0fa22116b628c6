/**
 * How much the loss depends on the weights that make keys and values, by the rule of the authors' code: F = mean over the matrix of
 * √(mean over texts of (∂loss/∂w)²). The code shifts its labels and hands them to a model that shifts them once more, so the loss is
 * that of the token after the next.
 */
import { CalibrationError, type CalibrationRun, type Part } from '@kvloom/core'

/** How many tokens on the predicted one stands. */
const AHEAD = 2
const PROJECTIONS = { keys: 'attention.key', values: 'attention.value' } as const

/**
 * F of each projection, one number per layer.
 * @param tokens of a text
 * @throws CalibrationError when the engine has no gradients of weights, or they are not finite; OptionError for sequences of two tokens
 */
export async function projectionFisher(
  run: CalibrationRun,
  tokens: number,
): Promise<Readonly<Record<Part, Float64Array>>> {
  const { layers } = run.model
  if (!run.weightFisher)
    throw new CalibrationError(
      'recalkv',
      "this engine has no gradients of weights. Give all layers the same ranks: recalkv({ allocation: 'uniform' }).",
    )
  const names = (part: Part) => Array.from({ length: layers }, (_, layer) => `layers.${layer}.${PROJECTIONS[part]}`)
  const information = await run.weightFisher([...names('keys'), ...names('values')], { ahead: AHEAD, tokens })
  const meanRoots = (part: Part) =>
    Float64Array.from(names(part), (name, layer) => {
      const mean = meanRoot(information[name]?.values ?? [])
      if (!Number.isFinite(mean))
        throw new CalibrationError(
          'recalkv',
          `the Fisher information of ${PROJECTIONS[part]} of layer ${layer} is no finite number.`,
        )
      return mean
    })
  return { keys: meanRoots('keys'), values: meanRoots('values') }
}

function meanRoot(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += Math.sqrt(values[i] ?? Number.NaN)
  return sum / values.length
}
