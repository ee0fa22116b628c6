// A fresh clone of this repository, with what is not committed yet.
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { root } from '../setup/workspace.mjs'

/** Never committed (.gitignore); left out where there is no git to say so. */
const MADE = /^(?:node_modules|dist|\.turbo|\.git|coverage|kvloom-report|__pycache__)$|\.generated\.ts$|\.tsbuildinfo$/

/** @returns {Promise<string>} the folder of the clone, in `parent` */
export async function freshClone(parent) {
  const clone = join(parent, 'kvloom')
  const cloned = spawnSync('git', ['clone', '--quiet', root, clone], { encoding: 'utf8' })
  if (cloned.status !== 0) {
    process.stdout.write(
      `this folder cannot be cloned (${(cloned.stderr || 'no git').trim()}); a copy is used instead\n`,
    )
    rmSync(clone, { recursive: true, force: true })
    cpSync(root, clone, { recursive: true, filter: (path) => path === root || !MADE.test(basename(path)) })
    return clone
  }
  for (const name of list('--deleted')) rmSync(join(clone, name), { force: true })
  for (const name of list('--modified', '--others')) {
    if (!existsSync(join(root, name))) continue
    mkdirSync(dirname(join(clone, name)), { recursive: true })
    copyFileSync(join(root, name), join(clone, name))
  }
  return clone
}

function list(...flags) {
  const { stdout } = spawnSync('git', ['ls-files', '-z', '--exclude-standard', ...flags], {
    cwd: root,
    encoding: 'utf8',
  })
  return stdout.split('\0').filter(Boolean)
}
