/** What several caches hold together, the one that made it and its forks, and what the last of them frees. */
export abstract class Owned {
  /** How many caches hold it. */
  private owners = 1

  get shared(): boolean {
    return this.owners > 1
  }
  retain(): this {
    this.owners++
    return this
  }
  release(): void {
    if (--this.owners === 0) this.free()
  }
  /** Frees what it holds; nobody uses it any more. */
  protected abstract free(): void
}
