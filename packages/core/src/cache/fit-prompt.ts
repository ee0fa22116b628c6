/** Fits transforms on a prompt, at its end. They see the rows that the prompt leaves. */
import * as tf from '@tensorflow/tfjs-core'
import { copyOf, mapTensors } from '../tensors'
import type { Seen } from './evict'
import { type LayerCache, queryHeadsOf } from './layer'
import { observe } from './observe'
import { readAll } from './rows/read'

export function fitPrompt(layer: LayerCache, seen: Seen): void {
  for (const lane of layer.lanes)
    for (const part of lane.parts) {
      const transform = part.form.codec?.parts.transform
      if (transform?.fitted !== 'prompt' || !transform.fitOnline || lane.rows === 0) continue
      const fitOnline = transform.fitOnline.bind(transform)
      const observed = observe(transform.needs, { ...seen, lane, queryHeads: queryHeadsOf(lane), replayed: null })
      part.fit(tf.tidy(() => mapTensors(fitOnline(readAll(part), observed.seen), copyOf)))
      observed.dispose()
    }
}
