// `npm install` of kvloom's packages as they would be published, for a project outside of this repository.
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { packageFolders, root } from '../setup/workspace.mjs'
import { shell } from './shell.mjs'

/**
 * Packs every package of the clone and installs what the documentation's `npm install` commands name, all in one project.
 *
 * @param {{ clone: string, scratch: string, installs: string[], env: Record<string, string> }} o
 * @returns {Promise<{ consumer: string, problems: string[] }>} the project's folder
 */
export async function installPacked({ clone, scratch, installs, env }) {
  const consumer = join(scratch, 'consumer')
  const tarballs = join(scratch, 'tarballs')
  for (const folder of [consumer, tarballs]) mkdirSync(folder)

  const pack = `npm run -s pnpm -- -r pack --pack-destination "${tarballs}"`
  const packed = await shell(pack, { cwd: clone, env })
  report(packed, pack)
  if (packed.exitCode !== 0) return { consumer, problems: [`\`${pack}\` failed\n${packed.output}`] }

  const files = new Map(packageFolders(clone).map((folder) => [manifestOf(folder).name, fileOf(manifestOf(folder))]))
  const published = readdirSync(tarballs)
  const specOf = (name) => `file:${join(tarballs, files.get(name))}`
  const publicNames = [...files.keys()].filter((name) => published.includes(files.get(name)))
  const named = [...new Set(installs.flatMap((command) => command.split(' ').slice(2)))]
  const problems = [
    ...privateOnes(clone, published),
    ...named
      .filter((name) => !publicNames.includes(name))
      .map((name) => `\`npm install ${name}\`: there is no such package`),
  ]
  if (problems.length > 0) return { consumer, problems }

  const manifest = {
    private: true,
    type: 'module',
    dependencies: Object.fromEntries(named.map((name) => [name, specOf(name)])),
    overrides: Object.fromEntries(publicNames.map((name) => [name, specOf(name)])),
  }
  writeFileSync(join(consumer, 'package.json'), JSON.stringify(manifest))
  const install = 'npm install --no-audit --no-fund --prefer-offline'
  const installed = await shell(install, { cwd: consumer, env })
  report(installed, `${install} (${named.length} packages of kvloom)`)
  if (installed.exitCode !== 0) return { consumer, problems: [`\`${install}\` failed\n${installed.output}`] }
  // Golden data and texts that commands name by their path in the repository.
  symlinkSync(join(root, 'packages'), join(consumer, 'packages'), 'junction')

  const program = named.map((name) => `import '${name}'`).join('\n')
  writeFileSync(join(consumer, 'imports.js'), `${program}\n`)
  const imported = await shell('node imports.js', { cwd: consumer, env })
  report(imported, `node, importing ${named.length} packages`)
  return {
    consumer,
    problems: imported.exitCode === 0 ? [] : [`an installed package cannot be imported\n${imported.output}`],
  }
}

const manifestOf = (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
/** As pnpm calls a tarball. */
const fileOf = ({ name, version }) => `${name.replace('@', '').replace('/', '-')}-${version}.tgz`

function privateOnes(clone, published) {
  return packageFolders(clone)
    .filter((folder) => manifestOf(folder).private)
    .filter((folder) =>
      published.some((file) => file.startsWith(fileOf(manifestOf(folder)).replace(/-[^-]*\.tgz$/, '-'))),
    )
    .map((folder) => `${relative(clone, folder)} is private, but packed`)
}

function report({ exitCode, seconds }, what) {
  process.stdout.write(`${exitCode === 0 ? 'ok    ' : 'FAILED'} ${seconds.toFixed(1).padStart(6)} s  ${what}\n`)
}
