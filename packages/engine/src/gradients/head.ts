// The end of the forward pass, with its losses and their gradients: final norm, output matrix, next-token loss, divergence from a teacher.
import { embeddingRows, matmulPacked, type PackedWeight, rmsNorm, unpackWeight } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { ModelConfig } from '../models/config'
import type { LlamaWeights } from '../weights'
import { sum } from './attention'
import { normGradient, normWeightGradient } from './norm'
import { tilesOf } from './tables'

/** Token rows whose logits are in memory at a time. */
const lossRows = 128

/** Another model of the same vocabulary, and what it makes of the same text. */
export interface TeacherStates {
  readonly config: ModelConfig
  readonly weights: LlamaWeights
  /** `[n, hidden of the teacher]`, its last layer's output. */
  readonly hidden: tf.Tensor
}

/** What is asked of the head. */
export interface HeadWish {
  /** The loss whose gradient is wanted: that of the next token, or KL(teacher || model); null for no gradient at all. */
  readonly gradientOf: 'next-token' | 'teacher' | null
  /** Needed for the loss `teacher`. */
  readonly teacher?: TeacherStates
  /** Whether the gradient of the final norm's weight is wanted too. */
  readonly finalNorm?: boolean
  /** The output matrix transposed, `[hidden, vocab]`, where it is at hand. */
  readonly outputTransposed?: PackedWeight
  /** How many tokens on the predicted one stands, fewer than there are; default 1, the next. */
  readonly ahead?: number
}

/** Losses in nats, summed over the n - ahead predictions of a text, and gradients of the one that was asked for. The caller's to dispose. */
export interface HeadLoss {
  /** -Σ log softmax(logits[t])[ids[t + ahead]], a scalar. */
  readonly nextToken: tf.Tensor
  /** Σ KL(teacher || model), a scalar; null without a teacher. */
  readonly divergence: tf.Tensor | null
  /** `[n, hidden]` at the last layer's output; the last rows, which predict nothing, are 0. */
  readonly hidden: tf.Tensor | null
  /** `[hidden]` */
  readonly finalNorm: tf.Tensor | null
}

/**
 * Losses of a text and the gradient of one of them at the last layer's output.
 * @param hidden `[n, hidden]`, the last layer's output
 * @param ids `[n]`
 */
export function headLoss(
  config: ModelConfig,
  weights: LlamaWeights,
  hidden: tf.Tensor,
  ids: Int32Array,
  { gradientOf, teacher, finalNorm = false, outputTransposed, ahead = 1 }: HeadWish,
): HeadLoss {
  const { rmsEpsilon } = config
  const result = tf.tidy(() => {
    const backwards = gradientOf ? backThrough(weights.output, outputTransposed) : null
    const normed = rmsNorm(hidden, weights.finalNorm, rmsEpsilon) as tf.Tensor2D // [n, hidden]
    const taught = teacher && rmsNorm(teacher.hidden, teacher.weights.finalNorm, teacher.config.rmsEpsilon) // [n, hidden of the teacher]
    const parts = tilesOf(ids.length - ahead, lossRows).map(({ start, end }) =>
      tf.tidy((): { nextToken: tf.Tensor; divergence?: tf.Tensor; gradient?: tf.Tensor } => {
        const rows = tf.slice(normed, [start, 0], [end - start, -1]) // [rows, hidden]
        const next = embeddingRows(weights.output, tf.tensor1d(ids.slice(start + ahead, end + ahead), 'int32')) // [rows, hidden]
        const logits = matmulPacked(rows, weights.output) // [rows, vocab]
        const totals = tf.logSumExp(logits, 1, true) // [rows, 1]
        const logChances = tf.sub(logits, totals) // [rows, vocab]
        const nextToken = tf.sub(tf.sum(totals), tf.sum(tf.mul(rows, next)))
        const target =
          teacher && taught
            ? divergenceFrom(
                matmulPacked(tf.slice(taught as tf.Tensor2D, [start, 0], [end - start, -1]), teacher.weights.output),
                logChances,
              )
            : null
        if (!backwards) return { nextToken, ...(target ? { divergence: target.divergence } : {}) }
        const chances = tf.exp(logChances)
        const gradient =
          gradientOf === 'teacher' && target
            ? backwards(tf.sub(chances, target.chances))
            : tf.sub(backwards(chances), next) // [rows, hidden]
        return { nextToken, gradient, ...(target ? { divergence: target.divergence } : {}) }
      }),
    )
    const some = (of: (part: (typeof parts)[number]) => tf.Tensor | undefined): tf.Tensor[] =>
      parts.map(of).filter((each) => each !== undefined)
    const divergences = some((part) => part.divergence)
    const losses = {
      nextToken: sum(parts.map((part) => part.nextToken)),
      ...(divergences.length > 0 ? { divergence: sum(divergences) } : {}),
    }
    const gradients = some((part) => part.gradient) as tf.Tensor2D[]
    if (gradients.length === 0) return losses
    const silent = tf.zeros([ahead, config.hiddenSize]) as tf.Tensor2D
    const atNormed = tf.concat([...gradients, silent], 0)
    return {
      ...losses,
      hidden: normGradient(hidden, weights.finalNorm, rmsEpsilon, atNormed),
      ...(finalNorm ? { finalNorm: normWeightGradient(hidden, rmsEpsilon, atNormed) } : {}),
    }
  }) as { nextToken: tf.Tensor; divergence?: tf.Tensor; hidden?: tf.Tensor; finalNorm?: tf.Tensor }
  const { nextToken, divergence = null, hidden: atHidden = null, finalNorm: atFinalNorm = null } = result
  return { nextToken, divergence, hidden: atHidden, finalNorm: atFinalNorm }
}

/** From gradients at logits, `[rows, vocab]`, to those at what the output matrix was given, `[rows, hidden]`. */
function backThrough(output: PackedWeight, transposed: PackedWeight | undefined): (gradient: tf.Tensor) => tf.Tensor {
  if (transposed) return (gradient) => matmulPacked(gradient, transposed)
  const matrix = unpackWeight(output) as tf.Tensor2D // [vocab, hidden]
  return (gradient) => tf.matMul(gradient as tf.Tensor2D, matrix)
}

/** Σ over rows of KL(softmax(taught) || chances), and softmax(taught), `[rows, vocab]`. */
function divergenceFrom(taught: tf.Tensor, logChances: tf.Tensor): { divergence: tf.Tensor; chances: tf.Tensor } {
  const logTaught = tf.sub(taught, tf.logSumExp(taught, 1, true))
  const chances = tf.exp(logTaught)
  return { chances, divergence: tf.sum(tf.mul(chances, tf.sub(logTaught, logChances))) }
}
