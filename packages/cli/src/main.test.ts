/** The built command, run as people run it. Needs a build (`npm test` makes one). */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { reportSchema } from '@kvloom/eval'
import { methods } from '@kvloom/methods'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeRandomModel } from './testing/random-model'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const TEXT =
  'It is a truth universally acknowledged, that a compressed cache in want of bits must forget something. '.repeat(12)

interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

let folder: string
let slow: string

/** @param watch is called with everything stderr said so far. */
function kvloom(
  args: readonly string[],
  watch: (stderr: string, child: ChildProcess) => void = () => undefined,
): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (data) => {
      stdout += String(data)
    })
    child.stderr.on('data', (data) => {
      stderr += String(data)
      watch(stderr, child)
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, stdout, stderr }))
  })
}

/** Options by name, with `more` in place of those of the same name: one that takes a single value may be given once. */
const withDefaults = (defaults: Readonly<Record<string, string>>, more: readonly string[]): string[] => [
  ...Object.entries(defaults)
    .filter(([name]) => !more.includes(name))
    .flat(),
  ...more,
]
const compare = (...more: string[]): string[] => [
  'compare',
  ...withDefaults(
    { '--model': 'model', '--text': 'text.txt', '--tokens': '300', '--passkey': '0', '--decode-tokens': '2' },
    more,
  ),
]
const report = async (out = 'kvloom-report') =>
  reportSchema.parse(JSON.parse(await readFile(join(folder, out, 'report.json'), 'utf8')))

beforeAll(async () => {
  if (!existsSync(MAIN)) throw new Error('The command line is not built. Run: npm run build')
  folder = await mkdtemp(join(tmpdir(), 'kvloom-cli-'))
  slow = join(folder, 'slow')
  await writeRandomModel(join(folder, 'model'))
  await writeRandomModel(slow, 12)
  await writeFile(join(folder, 'text.txt'), TEXT)
  await writeFile(join(folder, 'long.txt'), Array.from({ length: 60 }, (_, i) => `${i}. ${TEXT}`).join('\n'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('compare', () => {
  it('runs the default set and writes both reports', async () => {
    const { code, stdout, stderr } = await kvloom(compare())
    expect(stderr).toContain('1/11 uncompressed f32')
    expect(code).toBe(0)
    expect(stdout).toMatch(/snapkv\(keep=0\.5\)\+kivi\(bits=2, residual=32\)/)
    expect(stdout).toContain('kvloom-report/report.html')
    const { status, protocol, compositions } = await report()
    expect(status).toBe('complete')
    expect(protocol).toMatchObject({ name: 'E', promptTokens: 200 })
    expect(compositions.map((c) => c.status)).toEqual(Array(10).fill('done'))
    expect(await readFile(join(folder, 'kvloom-report', 'report.html'), 'utf8')).toContain('</html>')
  })

  it('takes compositions from the command line, and keeps going when one does not fit the model', async () => {
    const { code, stderr } = await kvloom(
      compare(
        '--protocol',
        'P',
        '--chunk',
        '32',
        '--compressor',
        'kivi(bits=2,group=24,residual=24)',
        '--compressor',
        'kivi(bits=4,residual=32)',
        '--out',
        'mixed',
      ),
    )
    expect(stderr).toMatch(
      /kivi\(bits=2,group=24,residual=24\) failed: kivi does not fit this model: .*Choose a group that divides 32/,
    )
    expect(code).toBe(1)
    // It is said before the first row runs, and once.
    expect(stderr.indexOf('failed: kivi')).toBeLessThan(stderr.indexOf('1/3 uncompressed'))
    expect(stderr.match(/failed: kivi/g)).toHaveLength(1)
    expect((await report('mixed')).compositions.map((c) => c.status)).toEqual(['failed', 'done'])
  })

  it('takes methods and compositions from a TypeScript configuration', async () => {
    await writeFile(
      join(folder, 'my.config.ts'),
      `import { defineConfig } from '@kvloom/cli'
       import { defineScorer } from '@kvloom/core'
       import { sum } from '@tensorflow/tfjs-core'
       const mine = defineScorer({ name: 'my-scorer', needs: { keys: { of: 'keys' } }, score: ({ keys }) => sum(keys, -1) })
       export default defineConfig({ methods: [mine], compressors: { 'a third': 'my-scorer(keep=0.33)', half: mine({ keep: 0.5 }) } })`,
    )
    const { code, stderr, stdout } = await kvloom(
      compare('--config', 'my.config.ts', '--compressor', 'my-scorer+kivi(residual=32)', '--out', 'config'),
    )
    expect(stderr).not.toContain('kvloom:')
    expect(stderr).toContain('my.config.ts: 1 method (my-scorer); 2 compositions, left aside')
    expect(code).toBe(0)
    expect(stdout).toContain('my-scorer+kivi(residual=32)')
    expect((await report('config')).compositions.map((c) => [c.name, c.status])).toEqual([
      ['my-scorer+kivi(residual=32)', 'done'],
    ])
    const own = await kvloom(compare('--config', 'my.config.ts', '--out', 'config-own'))
    expect(own.code).toBe(0)
    expect((await report('config-own')).compositions.map((c) => c.name)).toEqual(['a third', 'half'])
  })

  it('Ctrl-C leaves a partial report and exit code 130', async () => {
    let sent = false
    const args = [
      'compare',
      '--model',
      slow,
      '--text',
      'text.txt',
      '--tokens',
      '900',
      '--chunk',
      '2',
      '--passkey',
      '0',
      '--out',
      'stopped',
    ]
    const { code, stdout, stderr } = await kvloom(args, (said, child) => {
      if (sent || !said.includes('3/11')) return
      sent = true
      child.kill('SIGINT')
    })
    expect(stderr).toContain('interrupted; the report holds what was finished')
    expect(code).toBe(130)
    expect(stdout).toContain('stopped/report.html')
    const { status, baseline, compositions } = await report('stopped')
    expect(status).toBe('interrupted')
    expect(baseline.status).toBe('done')
    expect(compositions[0]?.status).toBe('done')
    expect(compositions.at(-1)).toMatchObject({ status: 'interrupted', result: null })
    expect(await readFile(join(folder, 'stopped', 'report.html'), 'utf8')).toContain('Interrupted.')
  })
})

describe('calibrate', () => {
  const calibrate = (model: string, out: string, ...more: string[]): string[] => [
    'calibrate',
    ...withDefaults(
      {
        '--model': model,
        '--compressor': 'aqua-kv(bits=3, block=16)',
        '--text': 'long.txt',
        '--sequences': '2',
        '--tokens': '64',
        '--out': out,
      },
      more,
    ),
  ]
  const partials = async () => (await readdir(folder)).filter((name) => name.endsWith('.partial'))

  it('writes what a composition learned, and compare and generate take it', async () => {
    const { code, stdout, stderr } = await kvloom(calibrate('model', 'aqua.safetensors'))
    expect(stderr).toContain('calibrating linear-predictor')
    expect(stdout).toMatch(/aqua\.safetensors: aqua-kv\(bits=3, block=16\) for model, fitted on long\.txt/)
    expect(code).toBe(0)
    expect(await partials()).toEqual([])
    const composition = ['--compressor', 'aqua-kv(bits=3, block=16)', '--artifacts', 'aqua.safetensors']
    const compared = await kvloom(compare('--cache-dir', 'cache/models', ...composition, '--out', 'fitted'))
    expect(compared.stderr).not.toContain('calibrating')
    expect(compared.code).toBe(0)
    const [row] = (await report('fitted')).compositions
    expect(row?.artifacts.map((a) => a.stage)).toEqual(['linear-predictor'])
    expect(row?.result?.footprint.ledger.perModel).toBeGreaterThan(0)
    const written = ['generate', '--model', 'model', '--prompt', 'Call me', '--max-new-tokens', '3', ...composition]
    expect((await kvloom(written)).code).toBe(0)
  })

  it('refuses artifacts that were fitted for something else, in words, everywhere', async () => {
    const why = /linear-predictor does not fit: it was fitted with higgs at bits=3, and bits=4 is asked for/
    const other = ['--compressor', 'aqua-kv(bits=4, block=16)', '--artifacts', 'aqua.safetensors']
    const compared = await kvloom(compare(...other, '--out', 'refused'))
    expect(compared.stderr).toMatch(why)
    expect(compared.stderr).not.toContain('uncompressed')
    expect(compared.code).toBe(1)
    expect((await report('refused')).compositions[0]).toMatchObject({ status: 'failed', result: null })
    const generated = await kvloom(['generate', '--model', 'model', '--prompt', 'Call me', ...other])
    expect(generated.stderr).toMatch(why)
    expect(generated.code).toBe(1)
    const elsewhere = await kvloom([
      ...['generate', '--model', slow, '--prompt', 'Call me', '--compressor', 'aqua-kv(bits=3, block=16)'],
      ...['--artifacts', 'aqua.safetensors'],
    ])
    expect(elsewhere.stderr).toMatch(/it was fitted on the model .* \(weights .*\), and this is .* \(weights /)
    const unused = await kvloom([
      ...['generate', '--model', 'model', '--prompt', 'Call me', '--compressor', 'kivi'],
      ...['--artifacts', 'aqua.safetensors'],
    ])
    expect(unused.stderr).toContain('holds what linear-predictor learned; nothing here learns')
    expect(unused.code).toBe(2)
  })

  it('goes on after Ctrl-C where it stopped, and learns the same', async () => {
    let sent = false
    const stopped = await kvloom(calibrate(slow, 'slow.safetensors'), (said, child) => {
      if (sent || !/layer \d+\/12/.test(said)) return
      sent = true
      child.kill('SIGINT')
    })
    expect(stopped.stderr).toContain('the same command with --resume goes on')
    expect(stopped.code).toBe(130)
    const whole = await kvloom(calibrate(slow, 'whole.safetensors'))
    expect(whole.code).toBe(0)
    const resumed = await kvloom(calibrate(slow, 'slow.safetensors', '--resume'))
    expect(resumed.code).toBe(0)
    expect(resumed.stderr).not.toContain('nothing to resume')
    expect(await partials()).toEqual([])
    expect(await readFile(join(folder, 'slow.safetensors'))).toEqual(await readFile(join(folder, 'whole.safetensors')))
  })

  it('happens by itself once, and is kept beside the model cache', async () => {
    const args = compare('--cache-dir', 'cache/models', '--compressor', 'lorc(rank=32)', '--out', 'fly')
    const first = await kvloom(args)
    expect(first.stderr).toContain('lorc(rank=32): calibrating lorc')
    expect(first.code).toBe(0)
    const again = await kvloom(args)
    expect(again.stderr).not.toContain('calibrating')
    expect(again.code).toBe(0)
    expect((await readdir(join(folder, 'cache', 'artifacts'))).filter((n) => n.endsWith('.safetensors'))).toHaveLength(
      1,
    )
  })

  it('says when there is nothing to fit, nothing to resume, or too little text', async () => {
    const nothing = await kvloom(['calibrate', '--composition', 'kivi', '--out', 'x.safetensors'])
    expect(nothing.stderr).toContain('kivi has nothing to fit')
    expect(nothing.code).toBe(2)
    const anew = await kvloom(calibrate('model', 'anew.safetensors', '--resume'))
    expect(anew.stderr).toContain('nothing to resume')
    expect(anew.code).toBe(0)
    const short = await kvloom(calibrate('model', 'x.safetensors', '--text', 'text.txt', '--sequences', '50'))
    expect(short.stderr).toMatch(/50 sequences of 64 tokens.*Give a longer text/)
    expect(short.code).toBe(1)
  })
})

describe('mistakes', () => {
  const cases: readonly (readonly [string, readonly string[], number, RegExp])[] = [
    ['no such command', ['compar'], 2, /unknown command 'compar'\n\(Did you mean compare\?\)/],
    ['no such option', ['compare', '--tokns', '3'], 2, /unknown option '--tokns'/],
    ['a number that is none', ['compare', '--tokens', 'many'], 2, /--tokens.*Allowed: a whole number from 2/],
    ['an unknown backend', ['compare', '--backend', 'webgl'], 2, /Allowed choices are cpu, wasm/],
    [
      'an unknown method',
      compare('--compressor', 'kivy'),
      2,
      /unknown method "kivy" \(did you mean "kivi"\?\).*character 1 of "kivy"/,
    ],
    ['two quantizers', compare('--compressor', 'kivi+kivi'), 2, /kivi and kivi cannot be composed/],
    [
      'two quantizers of different windows',
      compare('--compressor', 'kivi+higgs'),
      2,
      /both quantize the same rows\. .*split\(keys=kivi, values=higgs\)/,
    ],
    ['a budget without scores', compare('--compressor', 'ada-kv'), 2, /"ada-kv": ada-kv cannot work alone/],
    ['an unknown method to show', ['methods', 'kivy'], 2, /unknown method "kivy" \(did you mean "kivi"\?\)/],
    ['nothing to calibrate', ['calibrate', '--out', 'x'], 2, /--compressor is missing/],
    [
      'the same twice',
      ['convert', '--compressor', 'lorc', '--composition', 'lorc', '--out', 'x'],
      2,
      /give --compressor alone/,
    ],
    [
      'two compressors where one is taken',
      ['generate', '--model', 'model', '--prompt', 'a', '--compressor', 'kivi', '--compressor', 'higgs'],
      2,
      /--compressor was given twice; give it once/,
    ],
    ['two models', ['compare', '--model', 'a', '--model', 'b'], 2, /--model was given twice/],
    ['an unknown protocol', compare('--protocol', 'X'), 2, /unknown protocol "X"; allowed: P/],
    ['a missing configuration', compare('--config', 'none.ts'), 2, /none\.ts does not exist/],
    ['a text that is not there', compare('--text', 'none.txt'), 2, /none\.txt cannot be read/],
    ['a model that resolves nowhere', ['compare', '--model', 'no-such-model', '--offline'], 1, /model "no-such-model"/],
    ['more tokens than the context', compare('--tokens', '2048'), 1, /Give a longer text|the model's context/],
    ['an empty prompt', ['generate', '--model', 'model', '--prompt', ''], 2, /the prompt is empty/],
    ['golden data that is not there', ['golden', 'nowhere'], 1, /nowhere is no folder that can be read/],
  ]
  it.each(cases)('%s', async (_, args, exitCode, message) => {
    const { code, stdout, stderr } = await kvloom(args)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/\n {4}at /)
    expect(stdout).toBe('')
    expect(code).toBe(exitCode)
  })
  it('shows the stack only when asked', async () => {
    const { stderr } = await kvloom(['--verbose', 'golden', 'nowhere'])
    expect(stderr).toMatch(/\n {4}at /)
  })
  it('a report folder that cannot be written', async () => {
    await writeFile(join(folder, 'file'), '')
    const { code, stderr } = await kvloom(compare('--out', 'file/inside'))
    expect(stderr).toMatch(/report\.json cannot be written .*Choose another folder with --out/)
    expect(code).toBe(1)
  })
})

describe('the other commands', () => {
  it('generate streams text to stdout and figures to stderr', async () => {
    const { code, stdout, stderr } = await kvloom([
      'generate',
      '--model',
      'model',
      '--prompt',
      'Call me',
      '--max-new-tokens',
      '5',
      '--temperature',
      '1',
      '--seed',
      '3',
      '--compressor',
      'kivi(residual=32)',
    ])
    expect(stderr).toMatch(/prompt: 7 tokens.*new: \d tokens.*bits per value held/)
    expect(stderr).toMatch(/All 1\d tokens are still in the exact window: kivi has compressed nothing yet/)
    expect(code).toBe(0)
    const again = await kvloom([
      'generate',
      '--model',
      'model',
      '--prompt',
      'Call me',
      '--max-new-tokens',
      '5',
      '--temperature',
      '1',
      '--seed',
      '3',
      '--compressor',
      'kivi(residual=32)',
    ])
    expect(again.stdout).toBe(stdout)
  })
  it('methods lists every method as a table and as JSON', async () => {
    const { stdout } = await kvloom(['methods', '--json'])
    const listed = JSON.parse(stdout) as { name: string; options: { name: string }[] }[]
    expect(listed.map((m) => m.name)).toEqual(methods.map((m) => m.card.name))
    expect(listed[1]?.options.map((o) => o.name)).toContain('bits')
    const all = (await kvloom(['methods'])).stdout
    expect(all).toContain('StreamingLLM')
    for (const { options } of listed) for (const { name } of options) expect(all).toContain(`│ ${name} `)
    const one = await kvloom(['methods', 'ClusterKV'])
    expect(one.stdout).toContain('tokensPerCluster')
    expect(one.stdout).not.toContain('StreamingLLM')
    const mine = await kvloom(['methods', '--config', 'my.config.ts', '--json'])
    expect((JSON.parse(mine.stdout) as { name: string }[]).at(-1)?.name).toBe('my-scorer')
  })
  it('model inspect and list describe what is there', async () => {
    const { stdout } = await kvloom(['model', 'inspect', 'model', '--json'])
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'safetensors', config: { layers: 2, kvHeads: 2 } })
    expect((await kvloom(['model', 'list', '--cache-dir', 'empty'])).stdout).toContain('No model is in')
  })
  it('help and version succeed', async () => {
    expect((await kvloom(['--help'])).code).toBe(0)
    expect((await kvloom(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })
})
