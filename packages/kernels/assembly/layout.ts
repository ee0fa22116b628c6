// Sizes shared by kernels. Not exported from the module.

/** Bytes of one block of 32 prepared activations, see activations.ts. */
// @ts-ignore: decorator
@inline
export const activationBlockBytes: usize = 144
