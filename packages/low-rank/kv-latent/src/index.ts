export { kvLatent } from './kv-latent'
export { kvLatentOptions } from './options'
