/** Lets signals and timers have their turn: promises of the wasm backend alone never do. */
export const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve)
  })
