// Made from the folders of the methods by `npm run method-lists`. Do not edit.

/** The package of every method, by its name: a function that imports all that it exports. */
export const methodPackages: Readonly<Record<string, () => Promise<Readonly<Record<string, unknown>>>>> = {
  '@kvloom/ada-kv': () => import('@kvloom/ada-kv'),
  '@kvloom/aqua-kv': () => import('@kvloom/aqua-kv'),
  '@kvloom/block-formats': () => import('@kvloom/block-formats'),
  '@kvloom/clusterkv': () => import('@kvloom/clusterkv'),
  '@kvloom/coupled-quantization': () => import('@kvloom/coupled-quantization'),
  '@kvloom/decoquant': () => import('@kvloom/decoquant'),
  '@kvloom/deflate': () => import('@kvloom/deflate'),
  '@kvloom/expected-attention': () => import('@kvloom/expected-attention'),
  '@kvloom/fastgen': () => import('@kvloom/fastgen'),
  '@kvloom/freqkv': () => import('@kvloom/freqkv'),
  '@kvloom/higgs': () => import('@kvloom/higgs'),
  '@kvloom/kivi': () => import('@kvloom/kivi'),
  '@kvloom/kv-latent': () => import('@kvloom/kv-latent'),
  '@kvloom/kvsharer': () => import('@kvloom/kvsharer'),
  '@kvloom/kvzip': () => import('@kvloom/kvzip'),
  '@kvloom/l2-norm': () => import('@kvloom/l2-norm'),
  '@kvloom/linear-predictor': () => import('@kvloom/linear-predictor'),
  '@kvloom/lorc': () => import('@kvloom/lorc'),
  '@kvloom/minicache': () => import('@kvloom/minicache'),
  '@kvloom/none': () => import('@kvloom/none'),
  '@kvloom/snapkv': () => import('@kvloom/snapkv'),
  '@kvloom/streaming-llm': () => import('@kvloom/streaming-llm'),
  '@kvloom/think': () => import('@kvloom/think'),
  '@kvloom/tova': () => import('@kvloom/tova'),
}
