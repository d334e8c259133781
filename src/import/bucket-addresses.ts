import type { Settings } from '../config/settings.js';
import { STORAGE_FOLDER } from '../chat-images/entities/chat-image-path.js';
import { parseOldPicture } from './old-picture.js';

/** An address without its scheme. The host is in small letters, with its port; the path has no slash at its end. */
type Address = { readonly host: string; readonly path: string };

/** The kind of a whole value of the column. */
export type AddressValue =
  | { readonly kind: 'address of a picture'; readonly filePath: string }
  | { readonly kind: 'stable already' | 'another file name' | 'something else' };

/** A value that is an address as a whole. A sentence has spaces; a host with user and password has an at sign. */
const VALUE =
  /^(?<scheme>https?):\/\/(?<host>(?:[\w.-]+|\[[\da-f:.]+\])(?::\d+)?)(?<path>\/[^\s?#]*)(?:[?#]\S*)?$/i;

const DEFAULT_PORT: Readonly<Record<string, RegExp>> = { http: /:80$/, https: /:443$/ };

const SPACES_ENDPOINT = /^(?<region>[a-z]+\d+)\.digitaloceanspaces\.com$/;

/** The addresses of a bucket and its CDN, under which the previous system wrote pictures into messages. */
export class BucketAddresses {
  private readonly addresses: readonly Address[];
  private readonly stable: readonly Address[];

  /** @param more further addresses, such as a CDN's own host: absolute URLs */
  constructor(
    private readonly settings: Pick<Settings, 'appUrl' | 'storage' | 'migration'>,
    more: readonly string[],
  ) {
    const { appUrl, migration } = settings;
    this.stable = [`${appUrl}/storage`, `${appUrl}/api/images`].map(addressOf);
    const all = [
      ...this.ofBucket(),
      ...[migration.legacyMediaUrl, ...more].filter((url) => url !== undefined).map(addressOf),
    ];
    this.addresses = [...new Map(all.map((address) => [nameOf(address), address])).values()].filter(
      (address) => !this.stable.some((own) => nameOf(own) === nameOf(address)),
    );
  }

  /** The addresses without their scheme, for an operator. */
  get names(): readonly string[] {
    return this.addresses.map(nameOf);
  }

  examine(value: string): AddressValue {
    const { scheme = '', host: written = '', path = '' } = VALUE.exec(value)?.groups ?? {};
    const host = written.toLowerCase().replace(DEFAULT_PORT[scheme.toLowerCase()] ?? '', '');
    const isBelow = (address: Address): boolean =>
      address.host === host && path.startsWith(`${address.path}/${STORAGE_FOLDER}/`);
    if (this.stable.some(isBelow)) return { kind: 'stable already' };
    const found = this.addresses.filter(isBelow);
    if (found.length === 0) return { kind: 'something else' };
    for (const address of found) {
      const filePath = path.slice(address.path.length + 1);
      if (parseOldPicture(filePath)) return { kind: 'address of a picture', filePath };
    }
    return { kind: 'another file name' };
  }

  /** The address that this service answers. */
  stableAddressOf(filePath: string): string {
    return `${this.settings.appUrl}/storage/${filePath}`;
  }

  private ofBucket(): readonly Address[] {
    const { storage } = this.settings;
    if (storage.driver !== 's3') return [];
    const { bucket } = storage;
    const endpoint = addressOf(storage.endpoint);
    const { region } = SPACES_ENDPOINT.exec(endpoint.host)?.groups ?? {};
    const hosts = [endpoint.host, ...(region === undefined ? [] : [`${region}.cdn.digitaloceanspaces.com`])];
    return [
      addressOf(storage.publicUrl),
      ...hosts.flatMap((host) => [
        { host: `${bucket.toLowerCase()}.${host}`, path: endpoint.path },
        { host, path: `${endpoint.path}/${bucket}` },
      ]),
    ];
  }
}

function addressOf(url: string): Address {
  const { host, pathname } = new URL(url);
  return { host, path: pathname.replace(/\/+$/, '') };
}

function nameOf({ host, path }: Address): string {
  return `${host}${path}`;
}
