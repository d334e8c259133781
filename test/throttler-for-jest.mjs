/*
 * @nestjs/throttler is CommonJS and requires @nestjs/common, which is an ES module. Node 20.19 and newer load that; Jest
 * does so from Node 24.9 on only. Here its files are run with the modules that Jest has imported already.
 */
import * as common from '@nestjs/common';
import * as core from '@nestjs/core';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const nodeRequire = createRequire(import.meta.url);
const esModules = { '@nestjs/common': common, '@nestjs/core': core };
const loaded = new Map();

function load(file) {
  const known = loaded.get(file);
  if (known) return known.exports;
  const module = { exports: {} };
  loaded.set(file, module);
  const require = (name) => {
    if (name.startsWith('.')) return load(join(dirname(file), `${name}.js`));
    return esModules[name] ?? nodeRequire(name);
  };
  new Function('require', 'module', 'exports', readFileSync(file, 'utf8'))(require, module, module.exports);
  return module.exports;
}

export const { DEFAULT_IPV6_SUBNET_PREFIX, normalizeIp, ThrottlerGuard, ThrottlerModule, ThrottlerStorage } =
  load(join(import.meta.dirname, '../node_modules/@nestjs/throttler/dist/index.js'));
