export { KvloomError } from './kvloom-error'
export { nearestName } from './nearest-name'
