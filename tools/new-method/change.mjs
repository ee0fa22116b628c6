// A set of files to write, all or none: whatever fails on the way, the workspace is left as it was.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

export class Change {
  /** Absolute path to the new text. @type {Map<string, string>} */
  #texts = new Map()
  /** Absolute path to what stood there, `null` for no file. @type {Map<string, Buffer | null>} */
  #before = new Map()
  /** @type {string[]} folders that were made, the outer ones first */
  #folders = []

  /** What the file will hold, also when it was already changed in this set. @throws when there is no such file */
  read(path) {
    return this.#texts.get(path) ?? readFileSync(path, 'utf8').replaceAll('\r', '')
  }

  exists(path) {
    return this.#texts.has(path) || existsSync(path)
  }

  write(path, text) {
    this.#texts.set(path, text)
  }

  /** Remembers a file that another program is going to change. */
  keep(path) {
    if (!this.#before.has(path)) this.#before.set(path, existsSync(path) ? readFileSync(path) : null)
  }

  /** Writes everything and runs `then`; what either throws is thrown again after everything is back. */
  async apply(then) {
    try {
      for (const [path, text] of this.#texts) {
        this.keep(path)
        this.#makeFolder(dirname(path))
        writeFileSync(path, text)
      }
      await then()
    } catch (error) {
      this.#undo()
      throw error
    }
  }

  #makeFolder(folder) {
    if (existsSync(folder)) return
    this.#makeFolder(dirname(folder))
    mkdirSync(folder)
    this.#folders.push(folder)
  }

  #undo() {
    for (const [path, text] of this.#before) {
      if (text === null) rmSync(path, { force: true })
      else writeFileSync(path, text)
    }
    for (const folder of this.#folders.reverse()) {
      // An installation puts links to packages into a new folder; nothing else of it can be there.
      rmSync(`${folder}/node_modules`, { recursive: true, force: true })
      if (readdirSync(folder).length === 0) rmdirSync(folder)
    }
  }
}
