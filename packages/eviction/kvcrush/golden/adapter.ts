/** Cases of KVCrush: the paper's form, token by token, and two ports with pages. */
import type { CaseAdapter } from '@kvloom/golden'
import { canonical } from './canonical'
import { openVino } from './openvino'
import { vllm } from './vllm'

/** KVCrush against its formula and against the ports for vLLM and OpenVINO GenAI. */
export const adapter: CaseAdapter = {
  method: 'kvcrush',
  async run(golden) {
    switch (golden.options['form']) {
      case 'canonical':
        return canonical(golden)
      case 'vllm':
        return vllm(golden)
      case 'openvino':
        return openVino(golden)
      default:
        return null
    }
  },
}
