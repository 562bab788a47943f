// connect-node against the bundled server. The schema is read when it starts: nothing is generated.
import { readFileSync } from 'node:fs';
import { createFileRegistry, fromBinary, fromJson, toJson } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { API, PACKAGE, Refused, service, story } from './story.mjs';

const protocol = process.argv[2];
const defaultTimeoutMs = 30_000;
const transport = {
  json: () => createConnectTransport({ baseUrl: API, httpVersion: '1.1', useBinaryFormat: false, defaultTimeoutMs }),
  binary: () => createConnectTransport({ baseUrl: API, httpVersion: '1.1', useBinaryFormat: true, defaultTimeoutMs }),
  'binary-h2': () => createConnectTransport({ baseUrl: API, httpVersion: '2', useBinaryFormat: true, defaultTimeoutMs }),
  grpc: () => createGrpcTransport({ baseUrl: API, defaultTimeoutMs }),
}[protocol]();
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(process.env.SCHEMA)));
const errorInfo = registry.getMessage(`${PACKAGE}.ErrorInfo`);

async function call(method, message, headers) {
  const described = registry.getService(service(method));
  const { localName, input, output } = described.methods.find((one) => one.name === method);
  const heard = new Headers();
  const hear = (some) => some.forEach((value, name) => heard.set(name, value));
  try {
    const client = createClient(described, transport);
    const answer = await client[localName](fromJson(input, message, { registry }), {
      headers, onHeader: hear, onTrailer: hear,
    });
    return { message: toJson(output, answer, { registry }), headers: heard };
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    hear(error.metadata);
    const [info] = error.findDetails(errorInfo);
    if (!info) throw error;
    const code = Code[error.code].replace(/\B[A-Z]/g, '_$&').toLowerCase();
    throw new Refused(code, toJson(errorInfo, info), heard);
  }
}

await story(`connect-node ${protocol}`, call);
process.exit(0);
