/** Cases of SnapKV, which kvpress made. */
import { numberOption, type PressAdapter } from '@kvloom/golden'
import { snapkv } from '../src/snapkv'

/** SnapKV against kvpress. */
export const adapter: PressAdapter = {
  press: {
    name: 'snapkv',
    make: (golden, keep) =>
      snapkv({
        keep,
        window: numberOption(golden, 'window_size', 64),
        kernel: numberOption(golden, 'kernel_size', 5),
      }),
  },
}
