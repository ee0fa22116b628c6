import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

interface OwnPackage {
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
}

/** The `package.json` of this package. */
export function ownPackage(): OwnPackage {
  const path = createRequire(import.meta.url).resolve('@kvloom/cli/package.json')
  return JSON.parse(readFileSync(path, 'utf8')) as OwnPackage
}

/** The version of this package. */
export const version = (): string => ownPackage().version
