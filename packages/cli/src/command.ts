/** The process of the `kvloom` command. */
import { env } from '@tensorflow/tfjs-core'
import type { ServedModules } from './config-modules'
import { run } from './program'

/** Runs the command line with the arguments of this process, and sets its exit code. @param modules as of `run` */
export async function runCommand(modules: ServedModules = {}): Promise<void> {
  // tfjs greets users of its plain backends in Node; a command line has no use for that.
  env().set('PROD', true)
  // A reader that closes early (`kvloom methods | head`) is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
  process.exitCode = await run(process.argv.slice(2), modules)
}
