// Atomic writing (Node): a reader sees the old file or the new one, never half of it.
import fs from 'node:fs/promises'

/** Writes pieces beside `file`, syncs, and renames. What fails leaves the old file and nothing else. */
export async function writeWhole(
  file: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  const temporary = `${file}.${globalThis.crypto.randomUUID()}.tmp`
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
