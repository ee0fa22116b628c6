#!/usr/bin/env node
// The command of @kvloom/cli, so that `npm install kvloom` brings it.
import '@kvloom/cli/main'
