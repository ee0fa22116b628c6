import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { expect, it } from 'vitest'
import { FileLogits, MemoryLogits, openLogitStore } from './logit-store'

const folders = async (): Promise<string[]> =>
  (await readdir(tmpdir())).filter((name) => name.startsWith('kvloom-logits-'))

it('a file gives back the very float32 rows, in any order, and is gone afterwards', async () => {
  const before = await folders()
  const store = await FileLogits.create(3)
  const made = (await folders()).filter((name) => !before.includes(name))
  expect(made.length).toBeGreaterThan(0)
  await store.write(7, Float32Array.of(1.1, 2.2, 3.3))
  await store.write(8, Float32Array.of(-1, 0, Number.NEGATIVE_INFINITY))
  expect(await store.read(8)).toEqual(Float32Array.of(-1, 0, Number.NEGATIVE_INFINITY))
  expect(await store.read(7)).toEqual(Float32Array.of(1.1, 2.2, 3.3))
  await expect(store.read(9)).rejects.toThrow(/logits row is 9/)
  await store.dispose()
  // Others may come and go beside ours.
  expect((await folders()).filter((name) => made.includes(name)).length).toBeLessThan(made.length)
})

it('small runs stay in memory', async () => {
  const store = await openLogitStore(10, 100)
  expect(store).toBeInstanceOf(MemoryLogits)
  const row = Float32Array.of(1, 2)
  await store.write(0, row)
  row[0] = 9
  expect(await store.read(0)).toEqual(Float32Array.of(1, 2))
})
