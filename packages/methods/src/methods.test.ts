import { expect, it } from 'vitest'
import { methodPackages, methods } from './index'

it.each(methods.map((method) => [method.card.name, method] as const))(
  '%s is the only method of the package of its name',
  async (name, method) => {
    const exported = Object.values((await methodPackages[`@kvloom/${name}`]?.()) ?? {})
    expect(exported.filter((each) => methods.some((own) => own === each))).toEqual([method])
  },
)

it('names the package of every method, and no other', () => {
  expect(Object.keys(methodPackages)).toEqual(methods.map(({ card }) => `@kvloom/${card.name}`).sort())
})
