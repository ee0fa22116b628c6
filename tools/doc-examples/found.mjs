// The commands that the documentation tells people to run.
import { readDocuments } from './markdown.mjs'

const SHELL = new Set(['sh', 'bash', 'shell', 'console', ''])
const STARTS = /^(?:npm|npx|pnpm|node|kvloom|git|pip|python|turbo|vitest|tsc|cd)(?: |$)/

/** @returns {Map<string, string[]>} each command, and the documents that name it */
export function commandsOfDocuments(documents = readDocuments()) {
  const found = new Map()
  for (const { file, blocks, inline } of documents) {
    const lines = blocks
      .filter(({ language }) => SHELL.has(language))
      .flatMap(({ code }) => code.replaceAll(/\\\n\s*/g, '').split('\n'))
      .map((line) =>
        line
          .replace(/^\$ /, '')
          .replace(/\s+#.*$/, '')
          .trim(),
      )
    for (const command of [...lines, ...inline].filter((text) => STARTS.test(text) && isCommand(text))) {
      found.set(command, [...new Set([...(found.get(command) ?? []), file])])
    }
  }
  return found
}

/** The name of the project and of its command is no command by itself. */
const isCommand = (text) => text !== 'kvloom' && text !== 'npm' && text !== 'npx' && text !== 'node'
