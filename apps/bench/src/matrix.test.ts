// The page docs/matrix.md says of every pair whether it is refused, and why. Refusals when composed need no model: here they are
// made again and compared, so that the page cannot grow old.
import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { allCases, candidates, composeText, keyOf, methodNames, THREES } from './matrix-cases'

interface Case {
  /** Names, joined by ` + `. */
  readonly methods: string
  readonly composition: string
  readonly outcome: 'runs' | 'refused' | 'broken'
  readonly why: string | null
  readonly at: 'compose' | 'model' | null
  /** `compose` or `model` for each form that was tried, when all are refused. */
  readonly forms?: string
}

const { cases } = JSON.parse(await readFile(new URL('../results/matrix.json', import.meta.url), 'utf8')) as {
  cases: readonly Case[]
}
const page = await readFile(new URL('../../../docs/matrix.md', import.meta.url), 'utf8')
const AGAIN = 'The matrix is old: run `npm run -s pnpm -- --filter @kvloom/bench matrix`.'

describe('the composition matrix', () => {
  it('has every method, every pair, the mixes of three and every named mix', () => {
    expect(
      cases.map((c) => c.methods),
      AGAIN,
    ).toEqual(allCases().map((names) => names.join(' + ')))
    for (const [i, name] of methodNames.entries()) expect(page, AGAIN).toContain(`| ${i + 1} ${name} |`)
    const threes = new Set(THREES.map(keyOf))
    expect(threes.size).toBe(THREES.length)
    for (const { methods, composition, outcome } of cases)
      if (threes.has(keyOf(methods.split(' + '))))
        expect(page, AGAIN).toContain(`| \`${composition}\` | ${outcome === 'runs' ? '✓' : '['}`)
  })

  it('composes what it says runs, and refuses the rest in all its forms for the reason it says', () => {
    for (const { methods, composition, outcome, why, at, forms: where } of cases) {
      const forms = candidates(methods.split(' + '))
      expect(forms, AGAIN).toContain(composition)
      const made = composeText(composition)
      expect('refused' in made ? made.refused : null, `${composition}: ${AGAIN}`).toBe(at === 'compose' ? why : null)
      if (outcome === 'refused') {
        const refused = forms.map((form) => 'refused' in composeText(form))
        expect(refused, `${composition}: ${AGAIN}`).toEqual(where?.split(' ').map((place) => place === 'compose'))
      }
    }
  })

  it('refuses after compose only for numbers of the model, and never after a fit', () => {
    for (const { at, why } of cases) {
      expect(['compose', 'model', null]).toContain(at)
      // Whether a quantizer merges the heads of a token depends on how many there are, and on their dims.
      if (at === 'model') expect(why).toMatch(/does not fit this model: |makes one row of all heads of a token/)
    }
  })

  it('gives each refusal as a sentence that names a side and says what to do, and breaks nowhere', () => {
    for (const { outcome, why, composition } of cases) {
      expect(outcome, composition).not.toBe('broken')
      if (outcome === 'refused') expect(why).toMatch(/^.+: .+\. .+\.$/s)
    }
  })
})
