import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { temporaryBeside, writeWhole } from './write-whole'

let folder: string
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-write-'))
})
afterEach(() => fs.rmSync(folder, { recursive: true }))

const id = '01234567-89ab-cdef-0123-456789abcdef'
const left = (name: string, hours: number) => {
  const file = path.join(folder, name)
  fs.writeFileSync(file, 'half')
  const then = new Date(Date.now() - hours * 3_600_000)
  fs.utimesSync(file, then, then)
}

it('removes what a killed process left for this file, and nothing else', async () => {
  left(`cache.${id}.tmp`, 25)
  left(`cache.${id.replace('0', '1')}.tmp`, 1)
  left(`other.${id}.tmp`, 25)
  left(`cache.mine.tmp`, 25)
  left(`cache.x.${id}.tmp`, 25)
  fs.mkdirSync(path.join(folder, 'inside'))
  await writeWhole(path.join(folder, 'cache'), [new Uint8Array([1, 2])])
  expect(fs.readdirSync(folder).sort()).toEqual(
    [
      'cache',
      `cache.${id.replace('0', '1')}.tmp`,
      `cache.mine.tmp`,
      `cache.x.${id}.tmp`,
      'inside',
      `other.${id}.tmp`,
    ].sort(),
  )
  expect([...fs.readFileSync(path.join(folder, 'cache'))]).toEqual([1, 2])
})

it('folders likewise, and a folder that is not there is no error', async () => {
  const whole = path.join(folder, `model.${id}.tmp`)
  fs.mkdirSync(whole)
  fs.writeFileSync(path.join(whole, 'config.json'), '{}')
  const then = new Date(Date.now() - 30 * 3_600_000)
  fs.utimesSync(whole, then, then)
  expect(await temporaryBeside(path.join(folder, 'model'))).toMatch(/model\.[0-9a-f-]{36}\.tmp$/)
  expect(fs.readdirSync(folder)).toEqual([])
  expect(await temporaryBeside(path.join(folder, 'absent', 'model'))).toContain('absent')
})

it('what fails leaves the old file and nothing else', async () => {
  const file = path.join(folder, 'cache')
  fs.writeFileSync(file, 'old')
  const failing = (function* () {
    yield new Uint8Array([1])
    throw new Error('no more')
  })()
  await expect(writeWhole(file, failing)).rejects.toThrow('no more')
  expect(fs.readdirSync(folder)).toEqual(['cache'])
  expect(fs.readFileSync(file, 'utf8')).toBe('old')
})
