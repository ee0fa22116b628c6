export { attentionSums } from './attention-sums'
export { fastgen } from './fastgen'
export { fastgenOptions, type TokenPattern } from './options'
export { type Marks, marksOf, type Policy, policiesOf } from './policies'
export {
  type AttentionSums,
  choosePolicy,
  keepMask,
  meanAttention,
  profiledWidths,
  recoveryOf,
} from './profile'
export { type Allowance, budgetOf, type HeldRows, upkeep } from './upkeep'
