#!/usr/bin/env node
/** The `kvloom` command as this package alone brings it; the package `kvloom` runs it with itself for configurations to import. */
import { runCommand } from './command'

await runCommand()
