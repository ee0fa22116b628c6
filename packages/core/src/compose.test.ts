import { neg, norm } from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { ready } from './artifacts'
import { compose, foldSpace, onLayers, ownRows, protectLayers, split, stagesOn, window } from './compose'
import type { AnyStage, KVCompressor, Space, Stage } from './contract'
import { definePick, defineQuantizer, defineScorer } from './define'
import { IncompatibleStages, NotCalibrated, OptionError, WindowError } from './errors'
import { evenWindows, mergedWindow, NO_SEALING } from './merge-zones'
import { integer } from './options'

const card = (name: string) => ({ name, title: name, summary: '', chunkInvariant: true })
const quantizer = (name: string, rope: 'pre' | 'post' = 'post') =>
  defineQuantizer({
    name,
    rope,
    options: { block: integer({ default: 8, min: 1, doc: '' }) },
    window: ({ block }) => evenWindows({ block }),
    quantizer: () => ({
      layout: { kind: 'custom', fields: {} },
      rowsPerGroup: 1,
      theoreticalBitsPerValue: 1,
      encode: () => ({}),
      decode: (block) => Object.values(block)[0] as never,
    }),
  })
const scorer = (name: string) =>
  defineScorer({ name, needs: { keys: { of: 'keys' } }, score: ({ keys }) => neg(norm(keys, 2, -1)) })
/** Keeps some channels of the keys after RoPE, so that rotary pairs are broken. */
const channelMask: KVCompressor = {
  card: card('channel-mask'),
  stages: [
    {
      kind: 'transform',
      id: 'channel-mask',
      options: null,
      when: 'promptEnd',
      on: { part: 'keys' },
      accepts: (space) => ({ ...space, rope: 'post', latent: true }),
      bind: () => {
        throw new Error('not bound here')
      },
    } satisfies Stage<'transform'> as AnyStage,
  ],
}

/** A stage that leaves keys keys, after RoPE. */
const afterRope = (space: Space): Space => ({ ...space, rope: 'post' })

describe('compose', () => {
  it('orders stages by kind, whatever the order of the arguments', () => {
    const kinds = (c: KVCompressor) => c.stages.map((s) => s.kind)
    const [a, b] = [compose(scorer('norms')(), quantizer('q')()), compose(quantizer('q')(), scorer('norms')())]
    expect(kinds(a)).toEqual(['score', 'quantize', 'quantize'])
    expect(kinds(b)).toEqual(kinds(a))
    expect(compose(a, channelMask).stages.map((s) => s.id)).toEqual(['norms', 'channel-mask', 'q', 'q'])
  })

  it('refuses two stages for the same rows and names both and the cure', () => {
    expect(() => compose(quantizer('a')(), quantizer('b')())).toThrow(IncompatibleStages)
    expect(() => compose(quantizer('a')(), quantizer('b')())).toThrow(
      /a and b cannot be composed.*: split\(\{ keys: a\(\), values: b\(\) \}\), .*: compose\(onLayers\(\[0, 1\], a\(\)\), exceptLayers/,
    )
    expect(() => compose(scorer('a')(), scorer('b')())).toThrow(/a and b cannot be composed/)
  })

  it('refuses a compressor for a part on which it does not act, and takes one that leaves its part as it is', () => {
    const nothing: KVCompressor = { card: card('nothing'), stages: [] }
    expect(() => split({ keys: nothing, values: channelMask })).toThrow(
      /channel-mask acts on keys alone, and was given as values. Give it as keys, and none as values./,
    )
    expect(() => split({ keys: split({ keys: nothing, values: quantizer('q')() }), values: nothing })).toThrow(
      IncompatibleStages,
    )
    expect(split({ keys: channelMask, values: nothing }).stages.map((s) => s.id)).toEqual(['channel-mask'])
    expect(split({ keys: nothing, values: nothing }).stages).toEqual([])
  })

  it('allows the same two on different layers or parts', () => {
    const layers = compose(onLayers([0, 1], quantizer('a')()), protectLayers([0, 1], 4, quantizer('b')()))
    expect([0, 1, 2, 3].map((l) => stagesOn(layers, 'quantize', l, 'keys')[0]?.id)).toEqual(['a', 'a', 'b', 'b'])
    const parts = split({ keys: quantizer('a')(), values: quantizer('b')() })
    expect(stagesOn(parts, 'quantize', 0, 'keys').map((s) => s.id)).toEqual(['a'])
    expect(stagesOn(parts, 'quantize', 0, 'values').map((s) => s.id)).toEqual(['b'])
  })

  it('refuses a later stage that cannot take what an earlier one leaves', () => {
    // Latents are nobody's keys any more: a quantizer of either side takes them.
    expect(foldSpace(compose(channelMask, quantizer('post')()).stages, 'keys').latent).toBe(true)
    expect(foldSpace(compose(channelMask, quantizer('pre', 'pre')()).stages, 'keys').rope).toBe('post')
    const scaled = { ...channelMask, stages: channelMask.stages.map((s) => ({ ...s, accepts: afterRope }) as AnyStage) }
    expect(() => compose(scaled, quantizer('pre', 'pre')())).toThrow(
      /channel-mask and pre cannot be composed: pre takes keys before RoPE, and channel-mask works on keys after it/,
    )
  })

  it('merges windows by rule, and says what it made of which', () => {
    const sinks = window({ sinks: 4 }, scorer('norms')())
    expect(compose(sinks, quantizer('q')()).window).toMatchObject({ sinks: 4, keys: { recent: 0, block: 8 } })
    expect(compose(sinks, quantizer('q')()).mergedWindows).toBeUndefined()
    const [a, b] = [onLayers([0], quantizer('a')()), onLayers([1], quantizer('b')({ block: 16 }))]
    const mix = compose(window({ keys: { recent: 5 } }, a), b)
    expect(mix.window).toEqual({
      sinks: 0,
      keys: { recent: 5, block: 16, drain: 'blocks' },
      values: { recent: 0, block: 16, drain: 'blocks' },
    })
    expect(mix.mergedWindows?.map(({ part, from }) => [part, from.map(({ name }) => name)])).toEqual([
      ['keys', ['a@layers[0]', 'b@layers[1]']],
      ['values', ['a@layers[0]', 'b@layers[1]']],
    ])
    expect(compose(mix, scorer('norms')()).mergedWindows).toEqual(mix.mergedWindows)
    expect(window({ keys: { recent: 0 } }, mix).mergedWindows?.map(({ part }) => part)).toEqual(['values'])
    const [f16, f32] = (['f16', 'f32'] as const).map((store) => window({ store }, scorer(store)()))
    expect(() => compose(f16 as KVCompressor, onLayers([9], f32 as KVCompressor))).toThrow(
      /store exact rows differently/,
    )
  })

  it.each([
    // recent: the most; block: the largest, a multiple of every group; all only where all drain so.
    [
      [
        [16, 1, 'all'],
        [0, 32, 'blocks'],
      ],
      [8],
      [16, 32, 'blocks'],
    ],
    [
      [
        [0, 20, 'blocks'],
        [4, 1, 'all'],
      ],
      [8, 6],
      [4, 24, 'blocks'],
    ],
    [
      [
        [2, 3, 'all'],
        [0, 1, 'all'],
      ],
      [8],
      [2, 8, 'all'],
    ],
    [
      [
        [2, 3, 'all'],
        [Number.POSITIVE_INFINITY, 1, 'blocks'],
      ],
      [],
      [2, 3, 'all'],
    ],
  ] as const)('serves %j with groups %j by %j', (windows, groups, [recent, block, drain]) => {
    const given = windows.map(([r, b, d]) => ({ recent: r, block: b, drain: d }))
    expect(mergedWindow(given, groups)).toEqual({ recent, block, drain })
    expect(mergedWindow([...given].reverse(), [...groups].reverse())).toEqual({ recent, block, drain })
  })

  it('refuses groups without a common multiple of reasonable size', () => {
    const zone = { recent: 0, block: 128, drain: 'blocks' } as const
    expect(() => mergedWindow([zone, zone], [97, 101], ['a', 'b'])).toThrow(
      /a and b cannot be composed: they seal groups of 97 and 101 rows.*9797\. Choose groups/,
    )
  })

  it('refuses what pairs of stages need, before there is a model', () => {
    const groups = (rowsPerGroup: number) =>
      defineQuantizer({
        name: 'groups',
        options: {},
        rowsPerGroup: () => rowsPerGroup,
        window: () => evenWindows({ block: 8 }),
        quantizer: () => {
          throw new Error('nothing is bound here')
        },
      })()
    const pick = (by: 'scores' | 'positions') =>
      definePick({
        name: 'pick',
        options: {},
        by,
        pick: () => ({ needs: {}, positions: 'original', count: (n) => n, keep: () => [] }),
      })()
    expect(() => compose(groups(16))).toThrow(
      /keys window seals blocks of 8 rows, smaller than the 16 rows that groups/,
    )
    expect(() => compose(groups(3))).toThrow(/no multiple of the 3 rows that groups.*block: 9/)
    expect(() => compose(pick('scores'))).toThrow(/^pick cannot work alone: pick picks by score, and nothing scores/)
    expect(() => compose(scorer('norms')(), pick('positions'))).toThrow(/would ignore the scores of norms/)
    expect(compose(onLayers([0], scorer('norms')()), onLayers([3], pick('positions'))).stages).toHaveLength(2)
  })

  it('refuses what makes no sense', () => {
    expect(() => compose()).toThrow(OptionError)
    expect(() => split({ keys: scorer('norms')(), values: quantizer('q')() })).toThrow(
      /decides over keys and values together/,
    )
    expect(() => onLayers([-1], quantizer('q')())).toThrow(OptionError)
    expect(() => window({ sinks: -1 }, quantizer('q')())).toThrow(OptionError)
    expect(() => window({ sinks: Infinity }, quantizer('q')())).toThrow(/option sinks is Infinity;/)
    for (const sinks of [1e300, Number.NaN, -1, 0.5])
      expect(() => compose({ ...quantizer('q')(), window: { ...NO_SEALING, sinks } })).toThrow(WindowError)
    expect(() => window({ sinks: 1e300 }, quantizer('q')())).toThrow(/keeps 1e\+300 sinks/)
    expect(() => window({ keys: { block: 0 } }, quantizer('q')())).toThrow(OptionError)
    const budget = {
      kind: 'budget',
      id: 'share',
      options: null,
      when: 'promptEnd',
      facts: { ragged: true },
      accepts: (s) => s,
      bind: () => ({ ragged: true, counts: () => [] }),
    } satisfies Stage<'budget'>
    expect(() => compose({ card: card('share'), stages: [budget] })).toThrow(
      /^share cannot work alone: .*nothing scores.*Add a scorer/,
    )
    expect(() =>
      compose({
        card: card('w'),
        stages: [],
        window: {
          sinks: 0,
          keys: { recent: 0.5, block: 1, drain: 'all' },
          values: { recent: 0, block: 1, drain: 'all' },
        },
      }),
    ).toThrow(WindowError)
  })

  it('names two quantizers before their windows, and cures that cure', () => {
    expect(() => compose(quantizer('a')(), quantizer('b')({ block: 16 }))).toThrow(
      /^a and b cannot be composed: both quantize the same rows/,
    )
    const stores = (['f32', 'f16'] as const).map((store) => window({ store }, onLayers([0], quantizer(store)())))
    expect(() => compose(stores[0] as KVCompressor, onLayers([1], stores[1] as KVCompressor))).toThrow(
      /around f16.*: window\(\{ store: 'f32' \}, \.\.\.\)\.$/,
    )
  })

  it.each([
    [{ key: { recent: 4 } }, /option key is .*Did you mean "keys"/],
    [{ keys: { recnt: 4 } }, /window, keys: option recnt is 4.*Did you mean "recent"/],
    [{ values: { drain: 'al' } }, /values.drain is "al"; allowed: "blocks", "all"/],
    [{ store: 'f64' }, /store is "f64"/],
  ])('window refuses %j', (change, message) => {
    expect(() => window(change as never, quantizer('q')())).toThrow(message)
  })

  it.each([
    [() => compose(quantizer('q') as never), /compose: option compressor is "a function".*Call it/],
    [() => compose([quantizer('q')()] as never), /compose: option compressor is "a list"; allowed: a compressor/],
    [() => compose(undefined as never, quantizer('q')()), /compose: option compressor is undefined/],
    [() => compose(quantizer('q')(), undefined as never), /compose: option compressor is undefined/],
    [() => window(quantizer('q')() as never, {} as never), /window: option card is /],
    [() => window({ sinks: 4 }, quantizer('q') as never), /window: option compressor is "a function"/],
    [() => split({ keys: quantizer('q')() } as never), /split, values: option compressor is undefined/],
    [() => split({ key: quantizer('q')() } as never), /split: option key is .*Did you mean "keys"/],
    [() => onLayers(quantizer('q')() as never, [0] as never), /onLayers: option layers is /],
    [() => onLayers([0], null as never), /onLayers: option compressor is null/],
    [() => onLayers(0 as never, quantizer('q')()), /onLayers: option layers is 0; allowed: a list of layer numbers/],
    [() => protectLayers([0], Number.NaN, quantizer('q')()), /protectLayers: option total is .*exceptLayers/],
    [() => protectLayers([-1], 4, quantizer('q')()), /protectLayers: option layers is \[-1\]/],
    [() => ownRows('both' as never, quantizer('q')()), /ownRows: option which is "both"; allowed: "exact", "stored"/],
  ])('refuses what is no compressor or layer: %#', (make, message) => {
    expect(make).toThrow(OptionError)
    expect(make).toThrow(message)
  })

  it('is ready only with the artifacts of its fitted stages', () => {
    const [stage] = quantizer('learned')().stages
    const learned = { ...stage, fit: { scope: 'layer', run: () => Promise.reject(new Error('unused')) } } as AnyStage
    const c = { card: card('learned'), stages: [learned] }
    expect(() => ready(c)).toThrow(NotCalibrated)
    expect(ready(c, [{ stage: 'learned', fingerprint: '', json: null, tensors: {} }]).ready).toBe(true)
  })
})
