// Keys and certificate requests as OpenSSL makes them.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

export const place = (name) => `${process.env.house}/${name}`;

// What it says on either stream, and whether it was content.
export function run(program, ...args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', timeout: 30_000 });
  if (error) throw error;
  return { done: status === 0, text: `${stdout}${stderr}` };
}

export function openssl(...args) {
  const { done, text } = run('openssl', ...args);
  if (!done) throw new Error(`openssl ${args[0]}: ${text}`);
  return text;
}

// A request of a new key, in DER; the key and the request are `NAME.key` and `NAME.csr`.
export function request(name, curve = 'P-256', ...more) {
  openssl('req', '-new', '-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:${curve}`, '-nodes',
    '-keyout', place(`${name}.key`), '-subj', '/', '-outform', 'DER', '-out', place(`${name}.csr`), ...more);
  return readFileSync(place(`${name}.csr`));
}
