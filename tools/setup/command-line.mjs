// Runs the kvloom command in this very process: its stdin, stdout, exit code and signals are its own.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { SetupError } from './child.mjs'
import { root } from './workspace.mjs'

const MAIN = join(root, 'packages', 'kvloom', 'bin', 'kvloom.js')
const SAME_KEYSTROKE_MS = 500

export async function runCommandLine(args) {
  if (!existsSync(MAIN)) throw new SetupError('packages/kvloom/bin/kvloom.js is missing.')
  oneSignalPerKeystroke()
  process.argv = [process.execPath, MAIN, ...args]
  await import(pathToFileURL(MAIN).href)
}

/**
 * One Ctrl-C arrives twice under npm: from the terminal, and from npm, which forwards it. Commands that end at once on a
 * second Ctrl-C shall not take the copy for one.
 */
function oneSignalPerKeystroke() {
  const emit = process.emit.bind(process)
  let last = Number.NEGATIVE_INFINITY
  process.emit = (event, ...rest) => {
    if (event === 'SIGINT') {
      const now = performance.now()
      if (now - last < SAME_KEYSTROKE_MS) return true
      last = now
    }
    return emit(event, ...rest)
  }
}
