/** The commands and their options; the work is loaded when a command runs, so that help is instant. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import type { ServedModules } from './config-modules'
import { describeError, EXIT, exitCodeOf } from './errors'
import { version } from './version'

const whole =
  (min: number) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isInteger(value) || value < min)
      throw new InvalidArgumentError(`Allowed: a whole number from ${min}.`)
    return value
  }
const decimal = (text: string): number => {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Allowed: a number.')
  return value
}
const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value]

/**
 * @param done receives the exit code of the command that ran
 * @param modules what configurations may import beyond the libraries of kvloom
 */
export function buildProgram(done: (exitCode: number) => void, modules: ServedModules = {}): Command {
  const program = new Command('kvloom')
    .description(
      'Compose KV-cache compressors, run them on a real model, see what each costs in quality, bytes and time.',
    )
    .version(version())
    .option('--verbose', 'show the stack of an error')
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(`kvloom: ${text.replace(/^error: /, '')}`) })
  addCompare(program, done, modules)
  addCalibrate(program, done, modules)
  addConvert(program, done, modules)
  addTrain(program, done, modules)
  addGenerate(program, done, modules)
  program
    .command('methods')
    .description('show methods and their options')
    .argument('[name...]', 'methods to show (default: all, those of a configuration too)')
    .option('--json', 'as JSON')
    .addOption(config())
    .action(async (names, flags) =>
      done(await (await import('./commands/methods')).methodsCommand(names, { ...flags, modules })),
    )
  program
    .command('golden')
    .description('run reference cases against the methods and the engine')
    .argument('<path...>', 'folders with a golden.json, or folders of such folders')
    .option(
      '--only <names>',
      'only cases whose method, press or name begins so (comma-separated, repeatable)',
      collect,
      [],
    )
    .option(
      '--adapter <package or file>',
      'what runs the cases of a method of your own: a package with a subpath ./golden, or a file; it exports "adapter" (repeatable)',
      collect,
      [],
    )
    .addOption(config())
    .option('--model <name or path>', 'the model of the engine’s cases (default: smollm2-135m-instruct)')
    .option('--cache-dir <folder>', 'where models are kept')
    .option('--offline', 'use only what is on this machine')
    .addOption(backend())
    .action(async (paths, flags) =>
      done(await (await import('./commands/golden')).goldenCommand(paths, { ...flags, modules })),
    )
  addModel(program, done)
  for (const command of program.commands) refuseTwice(command)
  return program
}

/** An option with one value is refused when it is given twice: the earlier value would be dropped without a word. */
function refuseTwice(command: Command): void {
  for (const sub of command.commands) refuseTwice(sub)
  for (const option of command.options) {
    if (option.parseArg === collect || !(option.required || option.optional)) continue
    let given = false
    command.on(`option:${option.name()}`, () => {
      if (given)
        command.error(`error: ${option.long} was given twice; give it once.`, { exitCode: EXIT.usage, code: 'USAGE' })
      given = true
    })
  }
}

const config = (): Option =>
  new Option('--config <file>', 'kvloom.config.ts or .json with further methods (default: the one of this folder)')
/** One name for one thing: `--compressor`. What older commands called it is still taken, and not shown. */
const formerly = (): Option => new Option('--composition <composition>').hideHelp()
const backend = (): Option =>
  new Option('--backend <name>', 'where to compute').choices(['cpu', 'wasm']).default('wasm')
const modelOptions = (command: Command): Command =>
  command
    .option(
      '--model <name>',
      'a path, tiny, a known name, or owner/repo[/file.gguf] on the Hugging Face Hub (default: smollm2-135m-instruct)',
    )
    .addOption(backend())
    .option('--cache-dir <folder>', 'where models are kept')
    .option('--offline', 'use only what is on this machine')

function addCompare(program: Command, done: (exitCode: number) => void, modules: ServedModules): void {
  modelOptions(program.command('compare'))
    .description('compare compositions on a model and a text; writes report.json and report.html')
    .option(
      '--compressor <composition>',
      'such as "snapkv(keep=0.5)+kivi(bits=2)"; repeatable; replaces the compositions of a configuration',
      collect,
      [],
    )
    .addOption(formerly().argParser(collect).default([]))
    .option(
      '--artifacts <file>',
      'what kvloom calibrate wrote, refused where it does not fit; repeatable (default: fitted when needed, and kept)',
      collect,
      [],
    )
    .option(
      '--config <file>',
      'kvloom.config.ts or .json with compositions and further methods (default: the one of this folder)',
    )
    .option('--text <file>', 'plain text (default: a bundled public-domain text)')
    .option('--tokens <n>', 'tokens of the text', whole(2))
    .option(
      '--protocol <name>',
      'how the text is fed. P: in chunks, each over the compressed past. E: as one prompt, which is compressed at its end, then the rest. W: as one prompt whose rows are read as they are stored. auto: E if a stage acts at the end of a prompt, W if all rows are read as they are stored, else P',
      'auto',
    )
    .option(
      '--chunk <n>',
      'tokens per step; protocol P: default 128, 1 is true decoding; E: default all that follows the prompt',
      whole(1),
    )
    .option(
      '--prompt-tokens <n>',
      'protocol E: tokens before the compression (default: two thirds); W: of the prompt (default: all)',
      whole(1),
    )
    .option('--score-from <n>', 'protocols P and W: first token that is scored (default: a quarter)', whole(1))
    .option(
      '--decode-tokens <n>',
      'decode steps per row that are timed, all rows in turns; 0 times nothing',
      whole(0),
      16,
    )
    .option('--passkey <n>', 'passkey trials per composition; 0 for none', whole(0))
    .option('--passkey-tokens <n>', 'tokens of a passkey trial', whole(64))
    .option('--out <folder>', 'where the report goes', 'kvloom-report')
    .option('--seed <n>', 'seed of the passkeys', whole(0), 0)
    .action(async (flags) => done(await (await import('./commands/compare')).compareCommand({ ...flags, modules })))
}

function addCalibrate(program: Command, done: (exitCode: number) => void, modules: ServedModules): void {
  modelOptions(program.command('calibrate'))
    .description('fit the stages of a composition on a model and a text')
    .option('--compressor <composition>', 'such as "aqua-kv(bits=2)"')
    .addOption(formerly())
    .addOption(config())
    .requiredOption('--out <file>', 'where what is learned goes, a safetensors file')
    .option('--text <file>', 'plain text (default: a bundled public-domain text)')
    .option('--sequences <n>', 'sequences of the text', whole(1), 8)
    .option('--tokens <n>', 'tokens per sequence (default: 2048, or the context of the model)', whole(2))
    .option('--resume', 'go on with what an interrupted calibration kept beside --out')
    .action(async (flags) => done(await (await import('./commands/calibrate')).calibrateCommand({ ...flags, modules })))
}

function addConvert(program: Command, done: (exitCode: number) => void, modules: ServedModules): void {
  modelOptions(program.command('convert'))
    .description('write the model that a composition runs on, such as one with narrower heads')
    .option('--compressor <composition>', 'such as "kv-latent(keyDim=48, valueDim=64)"')
    .addOption(formerly())
    .addOption(config())
    .requiredOption('--out <folder>', 'where the model goes, a new folder; other commands take it as --model')
    .option('--artifacts <file>', 'what kvloom calibrate wrote; repeatable', collect, [])
    .action(async (flags) => done(await (await import('./commands/convert')).convertCommand({ ...flags, modules })))
}

function addTrain(program: Command, done: (exitCode: number) => void, modules: ServedModules): void {
  modelOptions(program.command('train'))
    .description('train the weights that a method makes, such as narrower heads; writes a model and training.html')
    .argument('<composition>', 'such as kv-latent or "kv-latent(keyDim=32, valueDim=32)"')
    .addOption(config())
    .option(
      '--out <folder>',
      'where the trained model goes, a new folder; other commands take it as --model',
      'kvloom-trained',
    )
    .option(
      '--text <file>',
      'plain text to train on, or a folder of .txt files; repeatable (default: a bundled public-domain text)',
      collect,
      [],
    )
    .option('--held-out <file>', 'plain text that perplexity is measured on (default: another bundled text)')
    .option('--held-out-sequences <n>', 'sequences of it', whole(1), 8)
    .option('--tokens <n>', 'tokens of all steps together', whole(1), 200_000)
    .option('--sequence <n>', 'tokens of a sequence (default: 512, or the context of the model)', whole(2))
    .option('--batch <n>', 'sequences a step', whole(1), 1)
    .option('--learning-rate <x>', 'multiplies the learning rates of the method', decimal, 1)
    .option('--measurements <n>', 'how often perplexity is measured on the way', whole(0), 10)
    .option('--seed <n>', 'seed of the order of sequences', whole(0), 0)
    .option('--resume', 'go on with the checkpoint that an interrupted run kept beside --out')
    .option('--as-is', 'with --resume: train no more, write the model that the checkpoint holds')
    .action(async (composition, flags) =>
      done(await (await import('./commands/train')).trainCommand(composition, { ...flags, modules })),
    )
}

function addGenerate(program: Command, done: (exitCode: number) => void, modules: ServedModules): void {
  modelOptions(program.command('generate'))
    .description('generate text through a compressed cache')
    .requiredOption('--prompt <text>', 'the prompt; - reads it from stdin')
    .option('--chat', 'wrap the prompt in the chat template of the model')
    .option('--compressor <composition>', 'the cache to generate through (default: none)')
    .addOption(formerly())
    .addOption(config())
    .option(
      '--artifacts <file>',
      'what kvloom calibrate wrote; repeatable (default: fitted when needed, and kept)',
      collect,
      [],
    )
    .option('--max-new-tokens <n>', 'most new tokens', whole(1), 128)
    .option('--temperature <t>', '0 is greedy', decimal, 0)
    .option('--top-k <n>', 'only the n most likely tokens', whole(1))
    .option('--top-p <p>', 'only the most likely tokens that together reach p', decimal)
    .option('--seed <n>', 'seed of the sampling', whole(0), 0)
    .action(async (flags) => done(await (await import('./commands/generate')).generateCommand({ ...flags, modules })))
}

function addModel(program: Command, done: (exitCode: number) => void): void {
  const model = program.command('model').description('fetch and look at models')
  const cacheDir = ['--cache-dir <folder>', 'where models are kept'] as const
  model
    .command('pull')
    .description('fetch a model into the cache')
    .argument('<name>')
    .option(...cacheDir)
    .action(async (name, flags) => done(await (await import('./commands/model')).pullCommand(name, flags)))
  model
    .command('list')
    .description('what is in the cache')
    .option(...cacheDir)
    .option('--json', 'as JSON')
    .action(async (flags) => done(await (await import('./commands/model')).listCommand(flags)))
  model
    .command('inspect')
    .description('what a model on this machine holds')
    .argument('<name>', 'a name or a path')
    .option(...cacheDir)
    .option('--json', 'as JSON')
    .action(async (name, flags) => done(await (await import('./commands/model')).inspectCommand(name, flags)))
}

/**
 * Runs the command line.
 * @param args without node and script
 * @param modules what configurations may import beyond the libraries of kvloom, by name
 * @returns the exit code; nothing is thrown
 */
export async function run(args: readonly string[], modules: ServedModules = {}): Promise<number> {
  let exitCode: number = EXIT.ok
  const program = buildProgram((code) => {
    exitCode = code
  }, modules)
  try {
    await program.parseAsync([...args], { from: 'user' })
  } catch (error) {
    // Commander has written its message already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
    const failed = exitCodeOf(error)
    const verbose = args.includes('--verbose')
    const line = failed === EXIT.interrupted && !verbose ? 'interrupted.' : describeError(error, verbose)
    process.stderr.write(`kvloom: ${line}\n`)
    return failed
  }
  return exitCode
}
