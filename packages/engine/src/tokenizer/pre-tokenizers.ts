// How byte-level BPE models cut text before merging: the patterns behind GGUF's `tokenizer.ggml.pre`. Each list is applied in
// turn, matches and what lies between them both become pieces. From llama.cpp's llama-vocab.cpp and the models' own tokenizer.json.
// `\s` is spelled as the Unicode property White_Space: JavaScript's own \s has U+FEFF and lacks U+0085.

const space = '\\p{White_Space}'
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${space}\\p{L}\\p{N}]+|${space}+(?!\\P{White_Space})|${space}+`
const contractions = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|'\u017f" // U+017F folds to s, as (?i:'s) has it
const tail = (after: string) => `\\p{N}${after}| ?[^${space}\\p{L}\\p{N}]+`
const ends = `${space}*[\\r\\n]+|${space}+(?!\\P{White_Space})|${space}+`
const llama3 = (digits: string) => `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${tail(digits)}[\\r\\n]*|${ends}`
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const tekken = `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*|${tail('')}[\\r\\n/]*|${ends}`

/** One way of cutting text. */
export interface PreTokenizer {
  readonly patterns: readonly string[]
  /** A piece that is a whole token is taken as it is, without merging. */
  readonly ignoreMerges: boolean
  /** A start token is put before the text unless the file says otherwise. */
  readonly addsBos: boolean
}

const plain = (patterns: readonly string[]): PreTokenizer => ({ patterns, ignoreMerges: false, addsBos: false })

const families: readonly (readonly [names: readonly string[], pre: PreTokenizer])[] = [
  [['gpt-2', 'gpt2', 'phi-2', 'roberta-bpe', 'mpt', 'olmo', 'jais', 'trillion'], plain([gpt2])],
  [['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'], plain(['\\p{N}', gpt2])],
  [
    ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'pixtral'],
    { patterns: [llama3('{1,3}')], ignoreMerges: true, addsBos: true },
  ],
  [['smaug-bpe', 'dbrx'], plain([llama3('{1,3}')])],
  [['qwen2', 'deepseek-r1-qwen', 'stablelm2', 'megrez', 'hunyuan'], plain([llama3('')])],
  [['tekken'], { patterns: [tekken], ignoreMerges: true, addsBos: true }],
  [['default'], plain(['[\\p{P}$+<=>^~|]+', gpt2, '\\p{N}+', '[0-9][0-9][0-9]'])],
]

/** Every known value of `tokenizer.ggml.pre`. */
export const preTokenizers: ReadonlyMap<string, PreTokenizer> = /* @__PURE__ */ new Map(
  families.flatMap(([names, pre]) => names.map((name): [string, PreTokenizer] => [name, pre])),
)
