/** What a configuration may import without installing it: the very modules that run here. */
import { methodPackages } from '@kvloom/methods'

type Module = Readonly<Record<string, unknown>>

/**
 * Modules by the name that an import gives: kvloom's libraries, the package of every method, `kvloom`, and tfjs-core. A second copy
 * of any of them would make compressors and tensors that the first does not know.
 *
 * @param own what the command line itself offers, as `@kvloom/cli`
 */
export async function configModules(own: Module): Promise<Record<string, Module>> {
  const libraries = {
    '@kvloom/core': await import('@kvloom/core'),
    '@kvloom/engine': await import('@kvloom/engine'),
    '@kvloom/eval': await import('@kvloom/eval'),
    '@kvloom/methods': await import('@kvloom/methods'),
  }
  const kernels = await import('@kvloom/kernels')
  return {
    ...libraries,
    ...(await methodModules()),
    // The package kvloom depends on this one, for its command; so it is put together here as its index does.
    kvloom: Object.assign({}, ...Object.values(libraries), { kernels }),
    '@kvloom/cli': { ...own, methods: libraries['@kvloom/methods'].methods },
    '@kvloom/conformance': await import('@kvloom/conformance'),
    '@kvloom/golden': await import('@kvloom/golden'),
    '@kvloom/kernels': kernels,
    '@kvloom/math': await import('@kvloom/math'),
    '@tensorflow/tfjs-core': await import('@tensorflow/tfjs-core'),
  }
}

const methodModules = async (): Promise<Record<string, Module>> =>
  Object.fromEntries(
    await Promise.all(Object.entries(methodPackages).map(async ([name, load]) => [name, await load()] as const)),
  )
