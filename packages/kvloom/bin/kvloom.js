#!/usr/bin/env node
// The command of @kvloom/cli, so that `npm install kvloom` brings it; configurations can import this package.
import { runCommand } from '@kvloom/cli'

await runCommand({ kvloom: () => import('../dist/index.js') })
