// The grids that are committed, and how each is made. All else follows from these numbers: the same recipe, the same bytes.

/** Seed and number of the samples that a grid's error is measured on. */
export const JUDGE = { seed: 20_250_101, count: 1_000_000 }

/** @type {Record<string, import('../../packages/math/src/index').GaussianGridOptions>} */
export const recipes = {
  // One dimension is Lloyd-Max, exact; the seed is not used.
  d1n2: { dimension: 1, points: 2, seed: 1 },
  d1n4: { dimension: 1, points: 4, seed: 1 },
  d1n8: { dimension: 1, points: 8, seed: 1 },
  d1n16: { dimension: 1, points: 16, seed: 1 },
  d1n256: { dimension: 1, points: 256, seed: 1 },
  d2n16: { dimension: 2, points: 16, seed: 1, restarts: 10, samplesPerPoint: 40_000, iterations: 300 },
  d2n64: { dimension: 2, points: 64, seed: 1, restarts: 5, batches: 600, samplesPerPoint: 8000, iterations: 200 },
  d2n256: { dimension: 2, points: 256, seed: 1, batches: 1000, batchPerPoint: 300, samplesPerPoint: 3000 },
  d4n256: { dimension: 4, points: 256, seed: 1, batches: 400, batchPerPoint: 300, samplesPerPoint: 4000 },
  d6n4096: {
    dimension: 6,
    points: 4096,
    seed: 1,
    batches: 80,
    batchPerPoint: 60,
    samplesPerPoint: 200,
    iterations: 25,
  },
  d8n256: { dimension: 8, points: 256, seed: 1, batches: 400, batchPerPoint: 300, samplesPerPoint: 4000 },
}
