/** Holds a state until its chunks are read, which may be later. */

/** Makes an iterable whose `close` is called once, when it ends, fails or is left early. */
export function snapshot<T>(chunks: AsyncGenerator<T>, close: () => void): AsyncIterable<T> {
  const ending = async (next: Promise<IteratorResult<T>>): Promise<IteratorResult<T>> => {
    try {
      const result = await next
      if (result.done) close()
      return result
    } catch (error) {
      close()
      throw error
    }
  }
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => ending(chunks.next()),
      return: async () => {
        close()
        return chunks.return(undefined)
      },
    }),
  }
}
