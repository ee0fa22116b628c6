// Runs one command line as a reader types it.
import { spawn } from 'node:child_process'

const LONGEST_MS = 10 * 60_000
const TAIL_CHARACTERS = 6000

/** @returns {Promise<{ exitCode: number, output: string, seconds: number }>} the end of stdout and stderr together */
export function shell(line, { cwd, env }) {
  const start = performance.now()
  return new Promise((resolve, reject) => {
    // A nested npm shall not take the settings of the npm that runs this check for its own.
    const inherited = Object.entries(process.env).filter(([name]) => !/^npm_(?:config|package|lifecycle)_/.test(name))
    const child = spawn(line, {
      cwd,
      shell: true,
      env: { ...Object.fromEntries(inherited), NO_COLOR: '1', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: LONGEST_MS,
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        output = (output + data).slice(-TAIL_CHARACTERS)
      })
    }
    child.on('error', reject)
    child.on('close', (code) => resolve({ exitCode: code ?? 1, output, seconds: (performance.now() - start) / 1000 }))
  })
}
