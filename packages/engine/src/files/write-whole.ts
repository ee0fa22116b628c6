// Atomic writing (Node): a reader sees the old file or the new one, never half of it.
import fs from 'node:fs/promises'
import path from 'node:path'

/** What nobody has written to for a day was left by a process that was killed. */
const leftMilliseconds = 24 * 60 * 60 * 1000

/**
 * A name beside `target` for what is being written. What earlier processes left there, for this target and untouched for a day, is
 * removed; where that is not allowed it stays.
 */
export async function temporaryBeside(target: string): Promise<string> {
  const whole = path.resolve(target)
  const folder = path.dirname(whole)
  const start = `${path.basename(whole)}.`
  const names = await fs.readdir(folder).catch((): string[] => [])
  for (const name of names.filter(
    (each) => each.startsWith(start) && /^[0-9a-f-]{36}\.tmp$/.test(each.slice(start.length)),
  )) {
    const left = path.join(folder, name)
    const written = await fs.stat(left).catch(() => undefined)
    if (written && Date.now() - written.mtimeMs > leftMilliseconds)
      await fs.rm(left, { recursive: true, force: true }).catch(() => undefined)
  }
  return `${whole}.${globalThis.crypto.randomUUID()}.tmp`
}

/** Writes pieces beside `file`, syncs, and renames. What fails leaves the old file and nothing else. */
export async function writeWhole(
  file: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  const temporary = await temporaryBeside(file)
  try {
    const handle = await fs.open(temporary, 'wx')
    try {
      for await (const piece of pieces) await handle.writeFile(piece)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await fs.rename(temporary, file)
  } catch (error) {
    await fs.rm(temporary, { force: true })
    throw error
  }
}
