/**
 * How the narrower model is trained (arXiv 2507.11273, section 3.4): first every layer by itself on the original model's hidden states
 * (Eq. 7), then the whole model by distillation. Queries, keys, values and outputs are trained in full, norms in the second stage;
 * embeddings, the output matrix and the MLP stay.
 *
 * What differs from the paper, which has a thousand million tokens and eight GPUs: layers are compared before their MLP, which is frozen here
 * and so the same in both models, so that no MLP runs backwards; LoRA on the MLP is left out; rates are a hundred times larger, for a
 * ten-thousandth of the steps; a piece of text is used four times in the first stage, since the original model's pass over it is what costs.
 */
import type { Training } from '@kvloom/core'

const attention = ['attention.query', 'attention.key', 'attention.value', 'attention.output']

export const kvLatentTraining: Training = {
  phases: [
    { name: 'layer-wise', loss: 'attention', weights: attention, share: 0.6, learningRate: 2e-3, passes: 4 },
    {
      name: 'end to end',
      loss: 'teacher',
      weights: [...attention, 'attentionNorm', 'mlpNorm', 'finalNorm'],
      share: 0.4,
      learningRate: 5e-4,
    },
  ],
}
