// Packs every public package as it would be published and checks the tarballs: publint (manifest and files) and
// are-the-types-wrong (types as a consumer resolves them). `--only NAME` limits it. Packages must be built.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { runNode, runNpx } from '../setup/child.mjs'
import { packageFolders, pinnedPnpm, toolScript } from '../setup/workspace.mjs'

const only = process.argv[2] === '--only' ? process.argv[3] : undefined
const tarballs = mkdtempSync(join(tmpdir(), 'kvloom-packages-'))
const start = performance.now()

const packages = packageFolders()
  .map((folder) => ({ folder, manifest: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) }))
  .filter(({ manifest }) => !manifest.private && (only === undefined || manifest.name === only))

try {
  const filters = packages.flatMap(({ manifest }) => ['--filter', manifest.name])
  const packed = await quietly((capture) =>
    runNpx([pinnedPnpm(), ...filters, '-r', 'pack', '--pack-destination', tarballs], { capture, quiet: true }),
  )
  if (packed.exitCode !== 0) throw new Error(`pnpm pack failed:\n${packed.output}`)

  const queue = [...packages]
  const problems = []
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) problems.push(...(await check(next)))
  }
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker))

  for (const problem of problems.sort()) process.stdout.write(`${problem}\n`)
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  process.stdout.write(`${packages.length} packages packed and checked in ${seconds} s, ${problems.length} problems\n`)
  process.exitCode = problems.length === 0 ? 0 : 1
} finally {
  rmSync(tarballs, { recursive: true, force: true })
}

/** @returns {Promise<string[]>} one line per problem */
async function check({ manifest }) {
  const prefix = `${manifest.name}-${manifest.version}`.replace('@', '').replace('/', '-')
  const name = readdirSync(tarballs).find((file) => file === `${prefix}.tgz`)
  if (!name) return [`${manifest.name}: was not packed`]
  const tarball = join(tarballs, name)

  const bytes = readFileSync(tarball)
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true })
  const problems = messages.map((message) => `${manifest.name}: ${formatMessage(message, pkg, { color: false })}`)

  const hasTypes = manifest.exports?.['.']?.types !== undefined
  if (!hasTypes) return problems
  const args = ['--profile', 'esm-only', '--format', 'ascii', '--no-emoji', '--no-color', tarball]
  const types = await quietly((capture) =>
    runNode(toolScript('@arethetypeswrong/cli', 'attw'), args, { capture, quiet: true }),
  )
  if (types.exitCode !== 0) problems.push(`${manifest.name}: types are wrong\n${types.output}`)
  return problems
}

async function quietly(run) {
  let output = ''
  const exitCode = await run((tail) => {
    output = tail
  })
  return { exitCode, output }
}
