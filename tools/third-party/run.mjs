// Runs examples/third-party as a stranger would: kvloom's packages packed and installed with npm in a folder outside of the workspace,
// the example built, tested, packed and installed beside `kvloom`, whose command runs its golden data.
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { shell } from '../doc-examples/shell.mjs'
import { packageFolders, root } from '../setup/workspace.mjs'

const EXAMPLE = join(root, 'examples', 'third-party')
const INSTALL = 'npm install --no-audit --no-fund --prefer-offline'
const scratch = mkdtempSync(join(tmpdir(), 'kvloom-third-party-'))
try {
  const [tarballs, own, consumer] = ['tarballs', 'package', 'consumer'].map((name) => join(scratch, name))
  for (const folder of [tarballs, consumer]) mkdirSync(folder)
  await run(`npm run -s pnpm -- -r pack --pack-destination "${tarballs}"`, root)
  const kvloom = packedPackages(tarballs)

  cpSync(EXAMPLE, own, { recursive: true, filter: (path) => !/node_modules|dist$/.test(path) })
  const manifest = JSON.parse(readFileSync(join(own, 'package.json'), 'utf8'))
  writeManifest(own, {
    ...manifest,
    // npm wants an override of what is named here to say the same.
    peerDependencies: fromTarballs(manifest.peerDependencies, kvloom),
    devDependencies: fromTarballs(manifest.devDependencies, kvloom),
    overrides: kvloom,
  })
  await run(INSTALL, own)
  await run('npm run build', own)
  await run('npm test', own)
  // It is published as it is written, without the paths of this run.
  writeManifest(own, manifest)
  await run('npm pack', own)

  const [packed = ''] = readdirSync(own).filter((name) => name.endsWith('.tgz'))
  const dependencies = {
    kvloom: kvloom.kvloom,
    '@kvloom/core': kvloom['@kvloom/core'],
    '@kvloom/golden': kvloom['@kvloom/golden'],
  }
  writeManifest(consumer, {
    private: true,
    type: 'module',
    dependencies: { ...dependencies, 'kvloom-long-values': `file:${join(own, packed)}` },
    overrides: kvloom,
  })
  await run(INSTALL, consumer)
  const golden = 'npx kvloom golden node_modules/kvloom-long-values/golden'
  await run(`${golden} --adapter kvloom-long-values`, consumer, /^1 passed, 0 failed$/m)
  // Without the adapter the case is unknown, which is a failure.
  await run(golden, consumer, /^0 passed, 1 failed$/m, 1)
  process.stdout.write('the package from outside is built, tested and run\n')
} catch (error) {
  process.stdout.write(`FAILED: ${error.message}\n`)
  process.exitCode = 1
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

/** @returns {Record<string, string>} `file:` specifiers of every published package by name */
function packedPackages(tarballs) {
  const files = readdirSync(tarballs)
  const entries = packageFolders().map((folder) => {
    const { name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
    return [name, `${name.replace('@', '').replace('/', '-')}-${version}.tgz`]
  })
  return Object.fromEntries(
    entries.filter(([, file]) => files.includes(file)).map(([name, file]) => [name, `file:${join(tarballs, file)}`]),
  )
}

function fromTarballs(dependencies, kvloom) {
  return Object.fromEntries(Object.entries(dependencies).map(([name, range]) => [name, kvloom[name] ?? range]))
}

function writeManifest(folder, manifest) {
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}

async function run(command, cwd, shows = /(?:)/, exits = 0) {
  const { exitCode, output, seconds } = await shell(command, { cwd, env: {} })
  const good = exitCode === exits && shows.test(output)
  process.stdout.write(`${good ? 'ok    ' : 'FAILED'} ${seconds.toFixed(1).padStart(6)} s  ${command}\n`)
  if (!good) throw new Error(`\`${command}\` ends with ${exitCode}\n${output}`)
}
