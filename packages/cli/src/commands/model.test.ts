import { mkdtempSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { openModel } from '../models'
import { writeRandomModel } from '../testing/random-model'
import { inspectCommand } from './model'

let folder: string
let stdout = ''
let stderr = ''
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvloom-model-command-'))
  await writeRandomModel(folder)
  await writeFile(join(folder, 'generation_config.json'), '{"eos_token_id":[-1,257]}')
  stdout = ''
  stderr = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text)
    return true
  })
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    stderr += String(text)
    return true
  })
})
afterEach(async () => {
  vi.restoreAllMocks()
  await rm(folder, { recursive: true })
})

const warning = /generation_config\.json is -1, which is no token id.*Generation stops at 257\./

it('inspect says which end ids are left and what is wrong with the others', async () => {
  await inspectCommand(folder, {})
  expect(stdout).toMatch(/end tokens +257\n/)
  expect(stderr).toMatch(warning)
  stdout = ''
  await inspectCommand(folder, { json: true })
  expect((JSON.parse(stdout) as { warnings: string[] }).warnings).toEqual([expect.stringMatching(warning)])
})

it('every command that loads a model says it', async () => {
  const model = await openModel({ model: folder, backend: 'cpu' })
  expect(stderr).toMatch(warning)
  model.dispose()
})
