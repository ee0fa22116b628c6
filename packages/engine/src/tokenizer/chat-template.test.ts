import { describe, expect, it } from 'vitest'
import { errorCode } from '../files/testing'
import { renderChat } from './chat-template'

const chat = (template: string, contents: readonly string[] = ['hello']) =>
  renderChat(template, {
    messages: contents.map((content) => ({ role: 'user', content })),
    addGenerationPrompt: true,
    bosToken: '<s>',
    eosToken: '</s>',
  })
const doubled = (grow: string, times = 40) =>
  `{% set ns = namespace(x=${grow.includes("'") ? "'ab'" : '[1]'}) %}{% for i in range(${times}) %}{% set ns.x = ${grow} %}{% endfor %}{{ ns.x }}`

describe('templates', () => {
  it('have what chat templates use', () => {
    expect(chat('{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content|trim }};{% endfor %}')).toBe(
      '<s>user:hello;',
    )
    expect(chat('{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(4, 0, -2) %}{{ i }}{% endfor %}')).toBe(
      '01242',
    )
    expect(chat('{{ none is none }}{{ True }}{{ add_generation_prompt }}{{ eos_token }}')).toBe('truetruetrue</s>')
    expect(chat("{{ strftime_now('%Y') }}")).toMatch(/^20\d\d$/)
    expect(chat("{%- if false %}a{% endif %}\n  {% set x = 'b' %}\n{{ x }}")).toBe('b')
  })

  it('take long chats', () => {
    const contents = Array.from({ length: 3000 }, (_, i) => `message ${i} `.repeat(40))
    const text = chat(
      "{% for m in messages %}{% if loop.first and messages[0].role != 'system' %}S{% endif %}{{ '<' + m['role'] + '>' + m['content'] | trim }}{% if messages[loop.index0 - 1] is defined and not loop.last %}\n{% endif %}{% endfor %}",
      contents,
    )
    expect(text.length).toBeGreaterThan(contents.join('').length)
    const derived = chat(
      '{% set rest = messages[1:] %}{% for m in rest %}{{ m.content }}{{ rest[loop.index0].role }}{% endfor %}',
      contents,
    )
    expect(derived).toContain('message 2999')
  })

  it.each([
    ['a range without end', '{{ range(1000000000) }}', /range\(\) of 1000000000/],
    ['a range of no step', '{{ range(0, 9, 0) }}', /range\(\) of Infinity/],
    ['a range of no numbers', "{{ range('a') }}", /range\(\) of NaN/],
    [
      'nested loops',
      '{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}',
      /more steps/,
    ],
    [
      'loops of nothing',
      '{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}',
      /more steps/,
    ],
    [
      'a chosen loop',
      '{% set r = range(9999) %}{% for a in r %}{% for b in r if b %}{% endfor %}{% endfor %}',
      /more steps/,
    ],
    ['a namespace of itself twice', doubled('namespace(a=ns.x, b=ns.x)'), /more than \d+ values/],
    ['a list doubled', doubled('ns.x + ns.x'), /more than \d+ values/],
    ['a list of itself twice', doubled('[ns.x, ns.x]'), /more than \d+ values/],
    ['an object of itself twice', doubled('{"a": ns.x, "b": ns.x}'), /more than \d+ values/],
    ['a text doubled', doubled("ns.x + ns.x + ''"), /characters/],
    ['a macro that calls itself', '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}', /not a function|stack|steps/],
    ['an error of its own', "{{ raise_exception('only users') }}", /only users/],
    ['a syntax error', '{% for %}', /./],
  ])('%s ends in a typed error, soon', async (_, template, message) => {
    expect(await errorCode(() => chat(template))).toBe('BAD_CHAT_TEMPLATE')
    expect(() => chat(template)).toThrow(message)
  })
})
