import type { Request } from 'express';
import ipaddr from 'ipaddr.js';
import { LRUCache } from 'lru-cache';

/** Bits of an IPv6 address that identify the network of one subscriber. */
const IPV6_PREFIX = 64;

/** Cache: each request needs its network, and parsing an address takes longer than a look-up. */
const known = new LRUCache<string, string>({ max: 10_000, memoMethod: networkOf });

/** The network of the client: the IPv4 address, or the /64 of the IPv6 address, because a household gets a whole /64. */
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
