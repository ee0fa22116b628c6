import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadModel } from '@kvloom/engine'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { EXIT, UsageError } from '../errors'
import { writeRandomModel } from '../testing/random-model'
import { type TrainFlags, trainCommand } from './train'

let folder: string
const flags = (out: string, more: Partial<TrainFlags> = {}): TrainFlags => ({
  model: join(folder, 'model'),
  backend: 'wasm',
  out: join(folder, out),
  text: [],
  heldOutSequences: 1,
  tokens: 64,
  sequence: 16,
  batch: 1,
  seed: 0,
  learningRate: 1,
  measurements: 0,
  ...more,
})

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvloom-train-'))
  await writeRandomModel(join(folder, 'model'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('kvloom train', () => {
  it('writes a model with its curves, and the same bytes again', async () => {
    const written = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    for (const out of ['one', 'two']) expect(await trainCommand('kv-latent', flags(out))).toBe(EXIT.ok)
    expect(String(written.mock.calls.at(-1)?.[0])).toMatch(
      /two: kv-latent of .+, trained on 64 tokens in .+ is back\n$/,
    )
    written.mockRestore()
    const record = JSON.parse(await readFile(join(folder, 'one', 'training.json'), 'utf8'))
    expect(record).toMatchObject({ schemaVersion: 1, settings: { tokens: 64, sequence: 16 } })
    expect(await readFile(join(folder, 'one', 'training.html'), 'utf8')).toContain('</html>')
    for (const file of ['model.safetensors', 'config.json']) {
      const [one, two] = await Promise.all(['one', 'two'].map((out) => readFile(join(folder, out, file))))
      expect(one?.equals(two ?? Buffer.of())).toBe(true)
    }
    const model = await loadModel(join(folder, 'one'))
    expect(model.shape).toMatchObject({
      keyDim: 16,
      valueDim: 16,
      fingerprint: record.trained,
      transformedBy: ['kv-latent'],
    })
    model.dispose()
    expect((await readdir(folder)).sort()).toEqual(['model', 'one', 'two'])
  })

  it('takes files and folders of text', async () => {
    const written = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const texts = join(folder, 'texts')
    await mkdir(texts)
    await writeFile(join(texts, 'b.txt'), 'And some more of it. '.repeat(20))
    await writeFile(join(texts, 'notes.md'), 'not this')
    await writeFile(join(folder, 'a.txt'), 'Some text. '.repeat(20))
    const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
    const code = await trainCommand('kv-latent', flags('texts-out', { text: [join(folder, 'a.txt'), texts] }))
    const notices = said.mock.calls.map(([text]) => String(text)).join('')
    said.mockRestore()
    written.mockRestore()
    expect(code).toBe(EXIT.ok)
    expect(notices).toMatch(
      /Trains on \d+ sequences of 16 tokens of .*a\.txt, .*texts; perplexity is that of 1 sequences/,
    )
  })

  it('keeps a checkpoint when it is interrupted, and writes the model that it holds', async () => {
    const written = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const said = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      if (/layer-wise/.test(String(text))) process.emit('SIGINT')
      return true
    })
    const long = flags('interrupted', { tokens: 16_000 })
    await expect(trainCommand('kv-latent', long)).rejects.toMatchObject({ code: 'INTERRUPTED' })
    expect(said.mock.calls.map(([text]) => String(text)).join('')).toContain('the same command with --resume goes on')
    said.mockImplementation(() => true)
    expect(await trainCommand('kv-latent', { ...long, resume: true, asIs: true })).toBe(EXIT.ok)
    expect(String(written.mock.calls.at(-1)?.[0])).toMatch(/trained on 16 tokens/)
    said.mockRestore()
    written.mockRestore()
    expect(await readdir(folder)).toContain('interrupted.checkpoint.safetensors')
    const model = await loadModel(long.out)
    expect(model.shape.keyDim).toBe(16)
    model.dispose()
  })

  it('refuses mistakes before it begins', async () => {
    await expect(trainCommand('kv-latent', flags('model'))).rejects.toThrow(/a new folder or an empty one/)
    await expect(trainCommand('kv-latent', flags('f', { asIs: true }))).rejects.toThrow(/give --resume too/)
    await expect(trainCommand('kivi', flags('a'))).rejects.toMatchObject({ code: 'OTHER_STAGES' })
    await expect(trainCommand('none', flags('b'))).rejects.toMatchObject({ code: 'NOTHING_TO_TRAIN' })
    await expect(trainCommand('kv-latent', flags('c', { text: ['nowhere.txt'] }))).rejects.toThrow(UsageError)
    const empty = join(folder, 'empty')
    await mkdir(empty)
    await expect(trainCommand('kv-latent', flags('d', { text: [empty] }))).rejects.toThrow(/no \.txt files/)
    await expect(trainCommand('kv-latent', flags('e', { resume: true }))).rejects.toMatchObject({
      code: 'CHECKPOINT_MISSING',
    })
  })
})
