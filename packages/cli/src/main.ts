#!/usr/bin/env node
/** The `kvloom` command. */
import { env } from '@tensorflow/tfjs-core'
import { run } from './program'

// tfjs greets users of its plain backends in Node; a command line has no use for that.
env().set('PROD', true)
// A reader that closes early (`kvloom methods | head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})
process.exitCode = await run(process.argv.slice(2))
