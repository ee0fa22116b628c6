/** What a configuration may import without installing it: the very modules that run here. */
import { methods } from './registry'

type Module = Readonly<Record<string, unknown>>

/**
 * Modules by the name that an import gives: kvloom's libraries, every method of the registry, `kvloom`, and tfjs-core. A second copy
 * of any of them would make compressors and tensors that the first does not know.
 *
 * @param own what the command line itself offers, as `@kvloom/cli`
 */
export async function configModules(own: Module): Promise<Record<string, Module>> {
  const libraries = {
    '@kvloom/core': await import('@kvloom/core'),
    '@kvloom/engine': await import('@kvloom/engine'),
    '@kvloom/eval': await import('@kvloom/eval'),
  }
  const kernels = await import('@kvloom/kernels')
  const packages = await methodModules()
  return {
    ...libraries,
    ...packages,
    // The package kvloom depends on this one, for its command; so it is put together here as its index does.
    kvloom: Object.assign({}, ...Object.values(libraries), { kernels }, ...Object.values(packages).map(factoriesOf)),
    '@kvloom/cli': { ...own, methods },
    '@kvloom/conformance': await import('@kvloom/conformance'),
    '@kvloom/kernels': kernels,
    '@kvloom/math': await import('@kvloom/math'),
    '@tensorflow/tfjs-core': await import('@tensorflow/tfjs-core'),
  }
}

/** The package of a method has its name. */
async function methodModules(): Promise<Record<string, Module>> {
  const names = methods.map(({ card }) => `@kvloom/${card.name}`)
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, (await import(name)) as Module] as const)),
  )
}

/** A method under the name that its package exports it by. */
const factoriesOf = (module: Module): Module =>
  Object.fromEntries(Object.entries(module).filter(([, value]) => methods.some((method) => method === value)))
