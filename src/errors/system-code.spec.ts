import { describe, expect, it } from '@jest/globals';
import { systemCode } from './system-code.js';

describe('systemCode', () => {
  it('finds the system code in the causes of an error', () => {
    const refused = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' });
    expect(systemCode(new TypeError('fetch failed', { cause: refused }))).toBe('ECONNREFUSED');
    expect(systemCode(new Error('no code'))).toBeUndefined();
    expect(systemCode('text')).toBeUndefined();
  });
});
