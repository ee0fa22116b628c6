/** Lets others have their turn during long work: timers, signals, a page's own events. */

/** Milliseconds of work that others wait for at most. */
const PATIENCE = 50

let last = Number.NEGATIVE_INFINITY

/**
 * Lets timers, signals and events in when none had a turn for 50 ms. Promises alone never do where a backend computes synchronously (cpu,
 * wasm), so every loop that takes longer calls it, once a step.
 */
export async function takeTurn(): Promise<void> {
  if (performance.now() - last < PATIENCE) return
  await new Promise<void>((resolve) => {
    // Browsers have no setImmediate, and Node's timers wait a millisecond.
    if (typeof setImmediate === 'function') setImmediate(resolve)
    else setTimeout(resolve)
  })
  last = performance.now()
}
