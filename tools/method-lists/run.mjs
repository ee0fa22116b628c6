// Writes the lists of methods from their folders: `npm run method-lists`. `--check` changes nothing and fails when one is stale.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from '../setup/workspace.mjs'
import { methodLists, staleLists } from './lists.mjs'

const stale = staleLists(root)
if (process.argv.includes('--check') && stale.length > 0) {
  process.stderr.write(`${stale.join(', ')}: stale lists of methods. Run \`npm run method-lists\`.\n`)
  process.exitCode = 1
} else {
  const texts = methodLists(root)
  for (const path of stale) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), texts[path])
  }
  process.stdout.write(stale.length === 0 ? 'the lists of methods are fresh\n' : `written: ${stale.join(', ')}\n`)
}
