import { expect, it } from '@jest/globals';
import { setImmediate } from 'node:timers/promises';
import {
  beginRequest,
  goOn,
  inSpan,
  isTraced,
  keepTrace,
  outsideTraces,
  traceHeaders,
  traceIdOf,
} from './spans.js';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';
const VALID = `00-${TRACE}-${SPAN}-01`;

/** The headers that a request with these headers passes on. */
function passedOn(headers: Record<string, string>): Readonly<Record<string, string>> {
  let passed: Readonly<Record<string, string>> = {};
  goOn(beginRequest('GET', headers), () => (passed = traceHeaders()), undefined);
  return passed;
}

it.each([
  ['sampled', VALID, VALID],
  ['not sampled', `00-${TRACE}-${SPAN}-00`, `00-${TRACE}-${SPAN}-00`],
  ['with flags that nobody knows', `00-${TRACE}-${SPAN}-fe`, `00-${TRACE}-${SPAN}-00`],
  ['of a later version', `01-${TRACE}-${SPAN}-01`, VALID],
  ['of a later version, with more parts', `cc-${TRACE}-${SPAN}-01-what-the-future-holds`, VALID],
])('a traceparent %s is passed on', (_, traceparent, expected) => {
  expect(passedOn({ traceparent })).toEqual({ traceparent: expected });
});

it.each([
  ['empty', ''],
  ['in upper case', VALID.toUpperCase()],
  ['with a part in upper case', `00-${TRACE.toUpperCase()}-${SPAN}-01`],
  ['with a trace id of zeros', `00-${'0'.repeat(32)}-${SPAN}-01`],
  ['with a span id of zeros', `00-${TRACE}-${'0'.repeat(16)}-01`],
  ['of the forbidden version', `ff-${TRACE}-${SPAN}-01`],
  ['of version 00 with more parts', `${VALID}-00`],
  ['of a later version with more text', `01-${TRACE}-${SPAN}-01.00`],
  ['that is too long', `${VALID}${'0'.repeat(8000)}`],
  ['that is too short', VALID.slice(0, -1)],
  ['with a trace id that is too short', `00-${TRACE.slice(1)}-${SPAN}-01`],
  ['with other letters', `00-${TRACE.replace('4', 'g')}-${SPAN}-01`],
  ['with spaces', ` ${VALID} `],
  ['with a line break', `${VALID}\nx`],
  ['with only dashes', '-'.repeat(8000)],
  // Node joins what is sent twice.
  ['that is sent twice', `${VALID}, ${VALID}`],
  ['of a later version that is sent twice', `01-${TRACE}-${SPAN}-01, ${VALID}`],
])('a traceparent %s is ignored', (_, traceparent) => {
  expect(beginRequest('GET', { traceparent, tracestate: 'vendor=1' })).toBeUndefined();
  expect(passedOn({ traceparent, tracestate: 'vendor=1' })).toEqual({});
});

it('a tracestate is passed on, as far as it is well-formed', () => {
  const stateOf = (tracestate: string): string | undefined =>
    passedOn({ traceparent: VALID, tracestate }).tracestate;
  expect(stateOf('one=1,two@vendor=2')).toBe('one=1,two@vendor=2');
  expect(stateOf('one=1, BAD=2 ,=3,four,five=5')).toBe('one=1,five=5');
  expect(stateOf(`one=1,${'x'.repeat(600)}`)).toBeUndefined();
  expect(stateOf('')).toBeUndefined();
  expect(passedOn({ tracestate: 'one=1' })).toEqual({});
});

it('work of a request keeps its trace, and work outside has none', async () => {
  const seen: Record<string, string | undefined> = {};
  let later: (name: string) => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    goOn(
      beginRequest('GET', { traceparent: VALID }),
      () => {
        later = keepTrace((name: string) => void (seen[name] = traceIdOf()));
        outsideTraces(() => (seen.outside = traceIdOf()));
        // A pipelined request begins within the one before it.
        goOn(undefined, () => (seen.next = traceIdOf()), undefined);
        void inSpan('claim', async () => {
          await setImmediate();
          seen.inSpan = traceIdOf();
        }).then(resolve);
      },
      undefined,
    );
  });
  await done;
  later('kept');
  expect(isTraced()).toBe(false);
  expect(seen).toEqual({ outside: undefined, next: undefined, inSpan: TRACE, kept: TRACE });
});
