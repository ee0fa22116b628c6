import { afterEach, describe, expect, it, vi } from 'vitest'
import { takeTurn } from './turn'

/** Works in promises alone for so many milliseconds, as a synchronous backend does. */
async function work(milliseconds: number, pause: () => Promise<void>): Promise<void> {
  for (const end = performance.now() + milliseconds; performance.now() < end; ) await pause()
}

describe('takeTurn', () => {
  afterEach(() => vi.unstubAllGlobals())

  it.each(['with setImmediate', 'as in browsers'])('lets timers in: %s', async (where) => {
    if (where === 'as in browsers') vi.stubGlobal('setImmediate', undefined)
    let fired = false
    setTimeout(() => {
      fired = true
    })
    await work(150, () => Promise.resolve())
    expect(fired).toBe(false)
    await work(150, takeTurn)
    expect(fired).toBe(true)
  })

  it('is over at once where others just had their turn', async () => {
    await new Promise((resolve) => setTimeout(resolve, 60))
    await takeTurn()
    let fired = false
    setImmediate(() => {
      fired = true
    })
    await takeTurn()
    expect(fired).toBe(false)
  })
})
