/** What a configuration may import without installing it: the very modules that run here. */
import { methodPackages } from '@kvloom/methods'

type Module = Readonly<Record<string, unknown>>

/** Modules that whoever runs the command line serves besides, by name, each loaded when a configuration is read. */
export type ServedModules = Readonly<Record<string, () => Promise<Module>>>

/**
 * Modules by the name that an import gives: kvloom's libraries, the package of every method, and tfjs-core. A second copy of any of
 * them would make compressors and tensors that the first does not know. The package `kvloom` is above this one and serves itself.
 *
 * @param own what the command line itself offers, as `@kvloom/cli`
 */
export async function configModules(own: Module, served: ServedModules = {}): Promise<Record<string, Module>> {
  const { methods } = await import('@kvloom/methods')
  return loaded({
    '@kvloom/core': () => import('@kvloom/core'),
    '@kvloom/engine': () => import('@kvloom/engine'),
    '@kvloom/errors': () => import('@kvloom/errors'),
    '@kvloom/eval': () => import('@kvloom/eval'),
    '@kvloom/methods': () => import('@kvloom/methods'),
    '@kvloom/conformance': () => import('@kvloom/conformance'),
    '@kvloom/golden': () => import('@kvloom/golden'),
    '@kvloom/kernels': () => import('@kvloom/kernels'),
    '@kvloom/math': () => import('@kvloom/math'),
    '@tensorflow/tfjs-core': () => import('@tensorflow/tfjs-core'),
    '@kvloom/cli': async () => ({ ...own, methods }),
    ...methodPackages,
    ...served,
  })
}

const loaded = async (modules: ServedModules): Promise<Record<string, Module>> =>
  Object.fromEntries(
    await Promise.all(Object.entries(modules).map(async ([name, load]) => [name, await load()] as const)),
  )
