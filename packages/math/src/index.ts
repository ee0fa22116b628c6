export { solveSymmetric } from './cholesky'
export { dct2, dct3, dctMatrix, lowPassMatrix } from './dct'
export { type SymmetricEigen, symmetricEigen } from './eigen'
export { MathError } from './errors'
export { cosOfPi, exactExp, exactLog } from './exact'
export { type GaussianGridOptions, gaussianError, gaussianGrid } from './gaussian-grid'
export { hadamardMatrix, hadamardTransform } from './hadamard'
export { type KmeansOptions, type KmeansResult, kmeans } from './kmeans'
export { kmeansPlusPlus } from './kmeans-start'
export { type Density, GAUSSIAN, lloydMax, type ScalarQuantizer, sphereCoordinate } from './lloyd-max'
export { type LloydMaxOfSamplesOptions, lloydMaxOfSamples } from './lloyd-max-samples'
export {
  firstColumns,
  frobeniusNorm,
  identity,
  type Matrix,
  type MatrixLike,
  matrix,
  multiply,
  transpose,
} from './matrix'
export { type Nearest, nearest, quantizationError } from './nearest'
export { cosineSimilarity, orthonormalColumns, randomOrthogonal } from './orthogonal'
export { type Random, seededRandom } from './random'
export { applyLinear, type LinearMap, RidgeAccumulator, type RidgeOptions } from './ridge'
export { fromSvd, pseudoInverse, type RandomizedSvdOptions, randomizedSvd, type Svd, svd } from './svd'
