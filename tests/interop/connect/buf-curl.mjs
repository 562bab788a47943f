// `buf curl` against the bundled server. The message and the headers go over its standard input,
// and it decodes the details of an error by the schema.
import { spawnSync } from 'node:child_process';
import { API, PACKAGE, Refused, service, story } from './story.mjs';

const protocol = process.argv[2];
const [kind, ...more] = {
  connect: ['connect'],
  'connect-h2': ['connect', '--http2-prior-knowledge'],
  grpc: ['grpc'],
}[protocol];

// Over Connect buf has decoded the detail by itself; over gRPC it is asked to.
function decoded({ type, value, debug }) {
  if (debug) return debug;
  const run = spawnSync(
    'buf',
    ['convert', process.env.SCHEMA, '--type', type, '--from', '-#format=binpb', '--to', '-#format=json'],
    { input: Buffer.from(value, 'base64'), encoding: 'utf8', timeout: 30_000 },
  );
  if (run.status !== 0) throw new Error(`buf convert: ${run.stderr}`);
  return JSON.parse(run.stdout);
}

async function call(method, message, headers) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\n`);
  const run = spawnSync(
    'buf',
    ['curl', '--schema', process.env.proto, '--protocol', kind, ...more, '--verbose',
      '--header', '@-', '--data', '@-', `${API}/${service(method)}/${method}`],
    { input: `${lines.join('')}\n${JSON.stringify(message)}`, encoding: 'utf8', timeout: 30_000 },
  );
  const heard = new Headers();
  for (const [, name, value] of run.stderr.matchAll(/^buf: < \(#\d+\) ([\w-]+): (.*)$/gm)) heard.set(name, value);
  if (run.status === 0) return { message: JSON.parse(run.stdout), headers: heard };
  // Less than 8 is a mistake in how it was called.
  const told = run.status >= 8 && /^\{[^]*^\}/m.exec(run.stderr);
  if (!told) throw new Error(`buf curl ended with ${run.status}: ${run.stderr}`);
  const { code, details } = JSON.parse(told[0]);
  const info = details?.find(({ type }) => type === `${PACKAGE}.ErrorInfo`);
  if (!info) throw new Error(`no ErrorInfo: ${told[0]}`);
  throw new Refused(code, decoded(info), heard);
}

await story(`buf curl ${protocol}`, call);
