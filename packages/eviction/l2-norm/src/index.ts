export { attentionLoss } from './attention-loss'
export { l2Norm } from './l2-norm'
export { l2NormOptions } from './options'
