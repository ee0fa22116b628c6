import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Artifact } from '@kvloom/core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { loadArtifacts, saveArtifacts } from './artifact-file'
import { encodeSafetensors } from './files/safetensors-write'

let folder: string
beforeAll(async () => {
  folder = await fs.mkdtemp(path.join(os.tmpdir(), 'kvloom-artifacts-'))
})
afterAll(() => fs.rm(folder, { recursive: true }))

const artifacts: readonly Artifact[] = [
  {
    stage: 'coupled-quantization',
    fingerprint: 'abc',
    fittedFor: {
      model: 'tiny',
      weights: 'w',
      stages: [{ kind: 'quantize', id: 'coupled-quantization', options: { bits: 2 }, on: { part: 'keys' } }],
    },
    json: { '0.keys': { error: 0.25, names: ['a', null, true] } },
    tensors: {
      '0.keys.codebook': { shape: [2, 3], values: Float32Array.of(1, -2.5, 3e-40, 0, Infinity, 6) },
      '11.values.order': { shape: [2], values: Int32Array.of(-(2 ** 31), 2 ** 31 - 1) },
      empty: { shape: [0, 4], values: new Float32Array() },
    },
  },
  { stage: 'kvsharer', fingerprint: 'ü', json: null, tensors: {} },
]

it('gives back what was written', async () => {
  const file = path.join(folder, 'a.safetensors')
  await saveArtifacts(file, artifacts)
  expect(await loadArtifacts(file)).toEqual(artifacts)
  const bytes = await fs.readFile(file)
  await saveArtifacts(file, artifacts)
  expect(await fs.readFile(file)).toEqual(bytes)
  await saveArtifacts(file, [])
  expect(await loadArtifacts(file)).toEqual([])
  expect(await fs.readdir(folder)).toEqual(['a.safetensors'])
})

it('refuses what it cannot write, and leaves the old file', async () => {
  const file = path.join(folder, 'b.safetensors')
  await saveArtifacts(file, artifacts)
  const refused = (given: readonly Artifact[], code: string, place = file) =>
    expect(saveArtifacts(place, given)).rejects.toMatchObject({ name: 'ArtifactFileError', code })
  const [first] = artifacts as readonly [Artifact, Artifact]
  await refused([first, first], 'BAD_ARTIFACT')
  await refused([{ ...first, stage: 'a/b' }], 'BAD_ARTIFACT')
  await refused([{ ...first, tensors: { x: { shape: [3], values: new Float32Array(2) } } }], 'BAD_ARTIFACT')
  await refused(artifacts, 'CANNOT_WRITE', path.join(folder, 'no', 'such', 'folder'))
  expect(await loadArtifacts(file)).toEqual(artifacts)
})

it('refuses files that are damaged, of another version, or something else', async () => {
  const file = path.join(folder, 'c.safetensors')
  await saveArtifacts(file, artifacts)
  const whole = await fs.readFile(file)
  const refused = async (bytes: Uint8Array, code: string) => {
    await fs.writeFile(file, bytes)
    await expect(loadArtifacts(file)).rejects.toMatchObject({ name: 'ArtifactFileError', code })
  }
  for (let at = 0; at < whole.length; at++) {
    const bytes = Uint8Array.from(whole)
    bytes[at] = bytes[at]! ^ 1
    await fs.writeFile(file, bytes)
    const outcome = await loadArtifacts(file).then(
      (loaded) => JSON.stringify(loaded, numbers),
      (error: { code?: string }) => error.code,
    )
    // A changed bit of padding changes nothing; version 0 and the like are another version; all else is damage.
    expect(['DAMAGED', 'OTHER_VERSION', JSON.stringify(artifacts, numbers)], `byte ${at}`).toContain(outcome)
    if (at >= 8 + Number(whole.readBigUInt64LE())) expect(outcome).toBe('DAMAGED')
  }
  await refused(whole.subarray(0, whole.length - 1), 'DAMAGED')
  await refused(new Uint8Array(), 'DAMAGED')
  await refused(encodeSafetensors({ x: { shape: [1], data: Float32Array.of(1) } }), 'DAMAGED')
  await refused(encodeSafetensors({}, { 'kvloom-artifacts': '{}' }), 'DAMAGED')
  await refused(encodeSafetensors({}, { 'kvloom-artifacts': 'no JSON' }), 'DAMAGED')
  await refused(encodeSafetensors({}, { 'kvloom-artifacts': '{"version":2}' }), 'OTHER_VERSION')
  await expect(loadArtifacts(path.join(folder, 'missing'))).rejects.toMatchObject({ code: 'CANNOT_READ' })
})

const numbers = (_: string, value: unknown): unknown =>
  ArrayBuffer.isView(value) ? Object.entries(value).join() : value
