/** Cases of Ada-KV, which kvpress made: shares of a budget between heads, over another press. */
import { compose } from '@kvloom/core'
import { numberOption, type PressAdapter, textOption } from '@kvloom/golden'
import { adaKv } from '../src/ada-kv'

/** Ada-KV against kvpress; the press that scores is looked up. */
export const adapter: PressAdapter = {
  press: {
    name: 'adakv',
    make(golden, keep, presses) {
      const host = presses.get(textOption(golden, 'base', ''))?.make(golden, keep, presses)
      return host ? compose(host, adaKv({ safeguard: numberOption(golden, 'alpha_safeguard', 0.2) })) : null
    },
  },
}
