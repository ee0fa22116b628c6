// Fails when a package imports one that it must not know: `node tools/boundaries/check.mjs [FOLDER]`.
import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cruise } from 'dependency-cruiser'
import { configuration } from './rules.mjs'

const workspace = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const baseDir = process.argv[2] ? resolve(process.argv[2]) : workspace
const folders = ['packages', 'apps', 'examples', 'tools'].filter((folder) => existsSync(join(baseDir, folder)))

const { output, exitCode } = await cruise(folders, {
  ...configuration.options,
  baseDir,
  ruleSet: { forbidden: configuration.forbidden },
  validate: true,
  outputType: 'err-long',
})
process.stdout.write(String(output))
process.exitCode = exitCode > 0 ? 1 : 0
