/** The three zones of a part, in the order of its rows: exact first rows, sealed rows, exact newest rows. */
export type Zone = 'sink' | 'sealed' | 'window'
export const ZONES: readonly Zone[] = ['sink', 'sealed', 'window']
