export { linearPredictor } from './linear-predictor'
export { linearPredictorOptions } from './options'
