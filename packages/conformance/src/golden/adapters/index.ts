import { kivi } from './kivi'
import { kvpress } from './kvpress'
import { l2norm } from './l2norm'
import { tova } from './tova'
import type { Adapter } from './types'

/** Adapters by the `method` of a golden.json. */
export const ADAPTERS: Readonly<Record<string, Adapter>> = { kivi, kvpress, l2norm, tova }
