import type { Request } from 'express';
import ipaddr from 'ipaddr.js';
import { LRUCache } from 'lru-cache';

/** How many bits of an IPv6 address name the network of one subscriber. */
const IPV6_PREFIX = 64;

/** Each request asks for it, and reading an address takes longer than a look-up. */
const known = new LRUCache<string, string>({ max: 10_000, memoMethod: networkOf });

/** The network of the client: its IPv4 address, or the /64 of its IPv6 one, as a household has all of that. */
export function clientNetwork({ ip = '' }: { readonly ip?: Request['ip'] }): string {
  return known.memo(ip);
}

function networkOf(ip: string): string {
  if (!ipaddr.isValid(ip)) return 'unknown';
  const address = ipaddr.process(ip);
  if (address.kind() === 'ipv4') return address.toString();
  const network = ipaddr.IPv6.networkAddressFromCIDR(`${address.toNormalizedString()}/${IPV6_PREFIX}`);
  return `${network.toString()}/${IPV6_PREFIX}`;
}
