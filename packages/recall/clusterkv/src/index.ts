export { clusterkv } from './clusterkv'
export { clusterkvOptions } from './options'
