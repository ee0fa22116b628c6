import { oneOf } from '@kvloom/core'

/** Options of `none()`. */
export const noneOptions = {
  store: oneOf(['f16', 'f32'], {
    default: 'f16',
    doc: 'How rows are held: f16 is what models are served with, f32 loses nothing.',
  }),
}
