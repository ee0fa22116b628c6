import { compare, composition, generateAll, loadModel, openCache, renderTable } from 'kvloom'

const model = await loadModel('tiny') // or 'smollm2-135m-instruct', owner/name on the Hub, a path
const mix = composition('snapkv(keep=0.5)+kivi(bits=2, residual=32)')
const cache = openCache(model, mix)
const { text } = await generateAll(model, cache, 'Call me Ishmael. '.repeat(20), { maxNewTokens: 40 })
console.log(text, cache.bytes())
cache.dispose()

const report = await compare({
  model,
  compositions: { mix, '4 bits': 'kivi(bits=4, residual=32)' },
  tokens: 240,
  passkeys: 0,
})
console.log(renderTable(report))
model.dispose()
