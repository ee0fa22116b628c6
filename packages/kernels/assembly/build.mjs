// Compiles every AssemblyScript kernel into ONE wasm module and writes it, base64, with the TypeScript types of its
// functions, to src/wasm/binary.generated.ts. The module runs on the memory of tfjs's wasm backend, which belongs to
// tfjs's allocator; so the build refuses a module that has static data, globals or imports other than that memory.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'

const here = dirname(fileURLToPath(import.meta.url))
const output = join(here, '..', 'src', 'wasm', 'binary.generated.ts')

const binary = await compile()
verify(binary)
mkdirSync(dirname(output), { recursive: true })
writeFileSync(output, generated(binary))
process.stdout.write(`kernels.wasm: ${binary.length} bytes, ${exportedFunctions(binary).length} functions\n`)

async function compile() {
  let wasm
  const { error, stderr } = await asc.main(
    [
      'index.ts',
      '--outFile',
      'kernels.wasm',
      '--importMemory',
      '--noExportMemory',
      '--runtime',
      'stub',
      '--enable',
      'simd',
      '-O3',
      '--noAssert',
    ],
    {
      readFile: (name, base) => {
        try {
          return readFileSync(join(base === '.' ? here : join(here, base), name), 'utf8')
        } catch {
          return null
        }
      },
      writeFile: (name, contents) => {
        if (name.endsWith('.wasm')) wasm = contents
      },
      listFiles: () => [],
    },
  )
  const messages = stderr.toString()
  if (messages) process.stderr.write(messages)
  if (error || !wasm) throw error ?? new Error('asc wrote no module')
  return wasm
}

/** Section ids of the wasm binary format: 6 globals, 8 start, 11 data. */
function verify(bytes) {
  const forbidden = {
    6: "globals (module-level `let`, or the stub runtime's heap: allocate nothing)",
    8: 'a start function',
    11: 'static data (strings, array literals, memory.data)',
  }
  for (const id of sectionIds(bytes)) {
    if (forbidden[id])
      throw new Error(`kernels.wasm has ${forbidden[id]}; kernels may only load and store through pointers passed in`)
  }
  const imports = WebAssembly.Module.imports(new WebAssembly.Module(bytes))
  const foreign = imports.filter((entry) => !(entry.module === 'env' && entry.name === 'memory'))
  if (foreign.length > 0 || imports.length !== 1)
    throw new Error(`kernels.wasm must import env.memory and nothing else, it imports ${JSON.stringify(imports)}`)
}

function sectionIds(bytes) {
  const ids = []
  let at = 8
  while (at < bytes.length) {
    ids.push(bytes[at++])
    let size = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++]
      size |= (byte & 127) << shift
      if (byte < 128) break
    }
    at += size
  }
  return ids
}

function exportedFunctions(bytes) {
  return WebAssembly.Module.exports(new WebAssembly.Module(bytes)).map((entry) => entry.name)
}

/** Parameter names come from the sources, so that a call with a missing argument does not type-check. */
function generated(bytes) {
  const index = readFileSync(join(here, 'index.ts'), 'utf8')
  const sources = [...index.matchAll(/from '\.\/([\w-]+)'/g)]
    .map(([, name]) => readFileSync(join(here, `${name}.ts`), 'utf8'))
    .join('\n')
  const signatures = exportedFunctions(bytes).map((name) => {
    const match = new RegExp(`export function ${name}\\(([^)]*)\\): (\\w+)`).exec(sources)
    if (!match) throw new Error(`exported function ${name} needs the form "export function ${name}(a: T, ...): T"`)
    const parameters = match[1]
      .split(',')
      .map((part) => part.trim().split(':')[0])
      .filter(Boolean)
    return `  ${name}(${parameters.map((parameter) => `${parameter}: number`).join(', ')}): ${match[2] === 'void' ? 'void' : 'number'}`
  })
  const base64 = Buffer.from(bytes).toString('base64')
  return `// Made by assembly/build.mjs. Do not edit.
export interface WasmFunctions {
${signatures.join('\n')}
}

export const wasmBase64 =
  '${base64}'
`
}
